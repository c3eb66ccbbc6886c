//! What a registry wants to know of who asks: the header `WWW-Authenticate` (RFC 9110, 11.6.1).

/// Challenges of one answer.
pub const MAX_CHALLENGES: usize = 16;
/// Parameters of one challenge.
pub const MAX_PARAMETERS: usize = 32;

/// One challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `bearer`.
    pub scheme: String,
    /// Names in lower case, values unquoted.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter; empty if it is not there.
    pub fn get(&self, name: &str) -> &str {
        let found = self.parameters.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// The challenges of one header's value. What cannot be read ends the list; it is never guessed.
pub fn parse(text: &str) -> Vec<Challenge> {
    let mut rest = Text(text);
    let mut found: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|b| b == b' ' || b == b'\t' || b == b',');
        let scheme = rest.token();
        if scheme.is_empty() || found.len() >= MAX_CHALLENGES {
            return found;
        }
        let mut challenge = Challenge {
            scheme: scheme.to_ascii_lowercase(),
            parameters: Vec::new(),
        };
        let whole = rest.parameters(&mut challenge.parameters);
        found.push(challenge);
        if !whole {
            return found;
        }
    }
}

struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn skip(&mut self, which: impl Fn(u8) -> bool) {
        let n = self.0.bytes().take_while(|b| which(*b)).count();
        self.0 = &self.0[n..];
    }

    fn blank(&mut self) {
        self.skip(|b| b == b' ' || b == b'\t');
    }

    fn token(&mut self) -> &'a str {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let n = self.0.bytes().take_while(is_token).count();
        let (token, rest) = self.0.split_at(n);
        self.0 = rest;
        token
    }

    /// `name=value` with commas between, up to the next challenge or the end; false if what follows cannot be read.
    fn parameters(&mut self, to: &mut Vec<(String, String)>) -> bool {
        loop {
            self.blank();
            let before = self.0;
            let name = self.token();
            self.blank();
            if name.is_empty() || !self.0.starts_with('=') {
                // The scheme of the next challenge, the end, or a token68, which no scheme of ours has.
                self.0 = before;
                return self.0.is_empty() || self.0.starts_with(',') || !to.is_empty();
            }
            self.0 = &self.0[1..];
            self.blank();
            let value = if self.0.starts_with('"') {
                match self.quoted() {
                    Some(value) => value,
                    None => return false,
                }
            } else {
                let token = self.token();
                if token.is_empty() {
                    // A token68 that ends with `=`.
                    return false;
                }
                token.to_owned()
            };
            if to.len() >= MAX_PARAMETERS {
                return false;
            }
            to.push((name.to_ascii_lowercase(), value));
            self.blank();
            if !self.0.starts_with(',') {
                return self.0.is_empty();
            }
            self.skip(|b| b == b' ' || b == b'\t' || b == b',');
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_is_named() {
        let found = parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", Scope="repository:a/b:pull,push""#,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), "https://auth.docker.io/token");
        assert_eq!(found[0].get("service"), "registry.docker.io");
        assert_eq!(found[0].get("scope"), "repository:a/b:pull,push");
        assert_eq!(found[0].get("error"), "");
    }

    #[test]
    fn several_in_one_header() {
        let found = parse(r#"Negotiate, Basic realm="a \"b\"", Bearer realm=x"#);
        let schemes: Vec<_> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(found[1].get("realm"), "a \"b\"");
        assert_eq!(found[2].get("realm"), "x");
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed() {
        assert!(parse("").is_empty());
        assert!(parse(" , ,").is_empty());
        assert!(parse("=\u{e9}").is_empty());
        assert_eq!(parse(r#"Basic realm="open"#)[0].parameters, []);
        assert_eq!(parse("Basic dG9rZW42OA==")[0].parameters, []);
        let many = format!("Basic {}", "a=b,".repeat(1000));
        assert_eq!(parse(&many)[0].parameters.len(), MAX_PARAMETERS);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let found = parse(&text);
            assert!(found.len() <= MAX_CHALLENGES);
        }

        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec("[ -~]{0,20}", 0..8)) {
            let pairs: Vec<_> = values.iter().enumerate().map(|(i, v)| {
                format!("p{i}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))
            }).collect();
            let found = parse(&format!("Bearer {}", pairs.join(", ")));
            let got: Vec<_> = found[0].parameters.iter().map(|(_, v)| v.clone()).collect();
            assert_eq!(got, values);
        }
    }
}
