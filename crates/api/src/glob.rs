//! Shell patterns as Go's `path.Match` has them: `*` and `?` stop at slashes, `[a-z]` and `\x`.

/// Whether all of `text` matches; `None` for a malformed pattern.
pub fn matches(pattern: &str, text: &str) -> Option<bool> {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let tokens = tokens(&pattern)?;
    // reached[i]: the tokens so far match the first i characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for token in &tokens {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            match token {
                Token::Star => {
                    next[at] = reached[at] || (at > 0 && next[at - 1] && text[at - 1] != '/');
                }
                one if at > 0 && reached[at - 1] => next[at] = one.accepts(text[at - 1]),
                _ => {}
            }
        }
        reached = next;
    }
    Some(reached[text.len()])
}

enum Token {
    Star,
    Any,
    One(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Star => false,
            Token::Any => c != '/',
            Token::One(one) => *one == c,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated
            }
        }
    }
}

fn tokens(pattern: &[char]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern.iter().copied().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::One(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let low = match rest.next()? {
                        ']' if !ranges.is_empty() => break,
                        '\\' => rest.next()?,
                        ']' | '-' => return None,
                        c => c,
                    };
                    let high = if rest.next_if_eq(&'-').is_some() {
                        rest.next().filter(|c| *c != ']')?
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Token::Class { negated, ranges }
            }
            c => Token::One(c),
        });
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("busybox", "busybox", Some(true)),
            ("busy*", "busybox:latest", Some(true)),
            ("*", "a/b", Some(false)),
            ("*/*", "a/b:c", Some(true)),
            ("b?x", "box", Some(true)),
            ("[a-c]x", "bx", Some(true)),
            ("[^a-c]x", "bx", Some(false)),
            ("[", "a", None),
            ("a\\", "a", None),
            ("", "", Some(true)),
            ("a**b", "ab", Some(true)),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_longer_than_their_size() {
        assert_eq!(matches(&"*a".repeat(200), &"a".repeat(199)), Some(false));
    }
}
