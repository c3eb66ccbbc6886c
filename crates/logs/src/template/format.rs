//! Go's `fmt.Sprintf` for the values that templates have.

use crate::info::LogInfo;

use super::escape::{quoted, quoted_with};
use super::functions::Failed;
use super::value::Value;
use super::{BadTemplate, MAX_TAG_BYTES, number};

/// Flags, width and precision of a verb.
#[derive(Clone, Copy, Debug, Default)]
struct Form {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Digits of a width or a precision; a longer one is none.
const MAX_DIGITS: usize = 7;

pub(super) fn sprintf(info: &LogInfo, format: &str, values: &[Value]) -> Result<String, Failed> {
    let mut run = Run {
        info,
        rest: format,
        values,
        next: 0,
        reordered: false,
        good_index: true,
        out: String::new(),
    };
    while let Some(at) = run.rest.find('%') {
        run.out.push_str(&run.rest[..at]);
        run.rest = &run.rest[at + 1..];
        run.verb()?;
        if run.out.len() > MAX_TAG_BYTES {
            return Err(Failed::Template(BadTemplate::TooLong));
        }
    }
    run.out.push_str(run.rest);
    if !run.reordered && run.next < values.len() {
        let extra = values[run.next..].iter().map(|value| match value {
            Value::Nothing => "<nil>".to_owned(),
            value => format!("{}={}", value.type_name(), value.shown(info)),
        });
        let extra: Vec<_> = extra.collect();
        run.out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(run.out)
}

struct Run<'a> {
    info: &'a LogInfo,
    /// Of the format.
    rest: &'a str,
    values: &'a [Value],
    next: usize,
    /// A value was asked for by its number.
    reordered: bool,
    good_index: bool,
    out: String,
}

impl Run<'_> {
    fn accept(&mut self, c: char) -> bool {
        let found = self.rest.strip_prefix(c);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn digits(&mut self) -> Option<usize> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        let number = digits.parse().ok();
        number.filter(|_| digits.len() <= MAX_DIGITS)
    }

    /// `[n]`: the number of the next value.
    fn index(&mut self) -> bool {
        if !self.rest.starts_with('[') {
            return false;
        }
        self.reordered = true;
        let Some((inside, rest)) = self.rest[1..].split_once(']') else {
            self.rest = &self.rest[1..];
            self.good_index = false;
            return false;
        };
        self.rest = rest;
        match inside.parse::<usize>() {
            Ok(n) if (1..=self.values.len()).contains(&n) => self.next = n - 1,
            _ => {
                self.good_index = false;
                return false;
            }
        }
        true
    }

    /// A width or a precision that is a value; `None` if that is no number of a sensible size.
    fn star(&mut self) -> Option<i64> {
        let value = self.values.get(self.next);
        self.next += usize::from(value.is_some());
        match value {
            Some(Value::Int(n)) if n.unsigned_abs() <= 1_000_000 => Some(*n),
            _ => None,
        }
    }

    fn width(&mut self, form: &mut Form) {
        if !self.accept('*') {
            form.width = self.digits();
            return;
        }
        match self.star() {
            Some(width) => {
                form.minus |= width < 0;
                form.zero &= width >= 0;
                form.width = usize::try_from(width.unsigned_abs()).ok();
            }
            None => self.out.push_str("%!(BADWIDTH)"),
        }
    }

    fn verb(&mut self) -> Result<(), Failed> {
        let mut form = Form::default();
        self.good_index = true;
        while let Some(flag) = self.rest.chars().next().filter(|c| "+-# 0".contains(*c)) {
            self.rest = &self.rest[1..];
            match flag {
                '+' => form.plus = true,
                '-' => form.minus = true,
                '#' => form.sharp = true,
                ' ' => form.space = true,
                _ => form.zero = true,
            }
        }
        form.zero &= !form.minus;
        let mut indexed = self.index();
        self.width(&mut form);
        if indexed && form.width.is_some() && !self.rest.starts_with('.') {
            // A number stands before the verb, not before a width.
            indexed = indexed && self.index();
        }
        if self.accept('.') {
            indexed = self.index();
            if self.accept('*') {
                form.precision = match self.star() {
                    Some(n) => usize::try_from(n).ok(),
                    None => None,
                };
                if form.precision.is_none() {
                    self.out.push_str("%!(BADPREC)");
                }
            } else {
                form.precision = Some(self.digits().unwrap_or(0));
            }
        }
        if !indexed {
            self.index();
        }
        let Some(verb) = self.rest.chars().next() else {
            self.out.push_str("%!(NOVERB)");
            return Ok(());
        };
        self.rest = &self.rest[verb.len_utf8()..];
        match verb {
            '%' => self.out.push('%'),
            _ if !self.good_index => self.out.push_str(&format!("%!{verb}(BADINDEX)")),
            _ => match self.values.get(self.next) {
                None => self.out.push_str(&format!("%!{verb}(MISSING)")),
                Some(value) => {
                    self.next += 1;
                    let text = self.value(value, verb, form)?;
                    self.out.push_str(&text);
                }
            },
        }
        Ok(())
    }

    fn value(&self, value: &Value, verb: char, form: Form) -> Result<String, Failed> {
        if verb == 'T' {
            return form.padded(value.type_name());
        }
        let found = match value {
            Value::Nothing if verb == 'v' => Some(form.padded("<nil>")?),
            Value::Nothing => Some(format!("%!{verb}(<nil>)")),
            Value::Text(text) => form.text(text, verb)?,
            Value::Int(n) => form.int(*n, verb)?,
            Value::Float(n) => form.float(*n, verb)?,
            Value::Bool(b) if matches!(verb, 't' | 'v') => Some(form.padded(&b.to_string())?),
            Value::Bool(_) => None,
            Value::List(list) => Some(self.list(list, verb, form)?),
            Value::Map(map) => Some(self.map(map, verb, form)?),
            Value::Info | Value::Time(_)
                if matches!(verb, 'v' | 's') && !form.plus && !form.sharp =>
            {
                Some(form.padded(&value.shown(self.info))?)
            }
            Value::Info | Value::Time(_) => {
                let what = format!("%{verb} of printf for {}", value.type_name());
                return Err(Failed::Template(BadTemplate::NotBuilt(what)));
            }
        };
        let bad = || format!("%!{verb}({}={})", value.type_name(), value.shown(self.info));
        Ok(found.unwrap_or_else(bad))
    }

    fn element(&self, text: &str, verb: char, form: Form) -> Result<String, Failed> {
        self.value(&Value::Text(text.to_owned()), verb, form)
    }

    fn list(&self, list: &[String], verb: char, form: Form) -> Result<String, Failed> {
        let parts = list.iter().map(|text| self.element(text, verb, form));
        let parts: Vec<_> = parts.collect::<Result<_, _>>()?;
        Ok(match verb == 'v' && form.sharp {
            true => format!("[]string{{{}}}", parts.join(", ")),
            false => format!("[{}]", parts.join(" ")),
        })
    }

    fn map(
        &self,
        map: &std::collections::BTreeMap<String, String>,
        verb: char,
        form: Form,
    ) -> Result<String, Failed> {
        let parts = map.iter().map(|(key, value)| {
            let key = self.element(key, verb, form)?;
            Ok(format!("{key}:{}", self.element(value, verb, form)?))
        });
        let parts: Vec<_> = parts.collect::<Result<_, Failed>>()?;
        Ok(match verb == 'v' && form.sharp {
            true => format!("map[string]string{{{}}}", parts.join(", ")),
            false => format!("map[{}]", parts.join(" ")),
        })
    }
}

impl Form {
    fn padded(self, text: &str) -> Result<String, Failed> {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        if missing > MAX_TAG_BYTES {
            return Err(Failed::Template(BadTemplate::TooLong));
        }
        Ok(match (self.minus, self.zero) {
            (true, _) => text.to_owned() + &" ".repeat(missing),
            (false, true) => "0".repeat(missing) + text,
            (false, false) => " ".repeat(missing) + text,
        })
    }

    fn text(self, text: &str, verb: char) -> Result<Option<String>, Failed> {
        let cut = match self.precision {
            Some(signs) if verb != 'x' && verb != 'X' => {
                let end = text
                    .char_indices()
                    .nth(signs)
                    .map_or(text.len(), |(n, _)| n);
                &text[..end]
            }
            _ => text,
        };
        let found = match verb {
            'v' if self.sharp => quoted(cut),
            'v' | 's' => cut.to_owned(),
            'q' if self.sharp && !cut.contains('`') && !cut.contains(char::is_control) => {
                format!("`{cut}`")
            }
            'q' => quoted_with(cut, '"', self.plus),
            'x' | 'X' => self.hex(text.as_bytes(), verb),
            _ => return Ok(None),
        };
        self.padded(&found).map(Some)
    }

    fn hex(self, bytes: &[u8], verb: char) -> String {
        let bytes = &bytes[..bytes.len().min(self.precision.unwrap_or(usize::MAX))];
        let prefix = if self.sharp {
            format!("0{verb}")
        } else {
            String::new()
        };
        let byte = |b: &u8| match verb {
            'x' => format!("{b:02x}"),
            _ => format!("{b:02X}"),
        };
        match self.space {
            true => {
                let parts = bytes.iter().map(|b| format!("{prefix}{}", byte(b)));
                parts.collect::<Vec<_>>().join(" ")
            }
            false if bytes.is_empty() => String::new(),
            false => prefix + &bytes.iter().map(byte).collect::<String>(),
        }
    }

    fn int(self, n: i64, verb: char) -> Result<Option<String>, Failed> {
        let size = n.unsigned_abs();
        let sign = u32::try_from(n).ok().and_then(char::from_u32);
        let sign = sign.unwrap_or('\u{fffd}');
        let (digits, prefix) = match verb {
            'd' | 'v' => (size.to_string(), ""),
            'b' => (format!("{size:b}"), "0b"),
            'o' => (format!("{size:o}"), "0"),
            'O' => (format!("{size:o}"), "0o"),
            'x' => (format!("{size:x}"), "0x"),
            'X' => (format!("{size:X}"), "0X"),
            'c' => return self.padded(&sign.to_string()).map(Some),
            'q' => {
                let text = quoted_with(&sign.to_string(), '\'', self.plus);
                return self.padded(&text).map(Some);
            }
            'U' => {
                let shown = if self.sharp {
                    format!(" '{sign}'")
                } else {
                    String::new()
                };
                let form = Form {
                    zero: false,
                    ..self
                };
                return form.padded(&format!("U+{n:04X}{shown}")).map(Some);
            }
            _ => return Ok(None),
        };
        let form = Form {
            zero: false,
            ..self
        };
        if self.precision == Some(0) && n == 0 {
            return form.padded("").map(Some);
        }
        let prefixed = verb == 'O' || self.sharp && !matches!(verb, 'd' | 'v');
        let prefix = match verb {
            'o' if digits.starts_with('0') => "",
            _ if prefixed => prefix,
            _ => "",
        };
        let sign = self.sign(n < 0);
        let zeros = match (self.precision, self.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if self.zero => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let zeros = Form {
            zero: true,
            minus: false,
            width: Some(zeros),
            ..self
        };
        let digits = zeros.padded(&digits)?;
        form.padded(&format!("{sign}{prefix}{digits}")).map(Some)
    }

    fn sign(self, negative: bool) -> &'static str {
        match negative {
            true => "-",
            false if self.plus => "+",
            false if self.space => " ",
            false => "",
        }
    }

    fn float(self, n: f64, verb: char) -> Result<Option<String>, Failed> {
        let not_built = matches!(verb, 'b' | 'x' | 'X') || self.sharp && verb != 'v';
        if not_built && "beEfFgGxX".contains(verb) {
            let what = format!("%{verb} of printf for a float64 in this form");
            return Err(Failed::Template(BadTemplate::NotBuilt(what)));
        }
        let precision = self.precision.unwrap_or(6).min(MAX_TAG_BYTES);
        let size = n.abs();
        let text = match verb {
            _ if !n.is_finite() => number::special(size).trim_start_matches('+').to_owned(),
            'e' | 'E' => exponential(size, precision),
            'f' | 'F' => format!("{size:.precision$}"),
            'g' | 'G' | 'v' => match self.precision {
                None => number::shortest(size),
                Some(precision) => general(size, precision.min(MAX_TAG_BYTES)),
            },
            _ => return Ok(None),
        };
        let text = if verb == 'E' || verb == 'G' {
            text.to_uppercase()
        } else {
            text
        };
        let sign = self.sign(n.is_sign_negative() && !n.is_nan());
        if self.zero && n.is_finite() {
            let width = self.width.map(|w| w.saturating_sub(sign.len()));
            let text = Form { width, ..self }.padded(&text)?;
            return Ok(Some(format!("{sign}{text}")));
        }
        let form = Form {
            zero: false,
            ..self
        };
        form.padded(&format!("{sign}{text}")).map(Some)
    }
}

fn exponential(n: f64, precision: usize) -> String {
    let text = format!("{n:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!(
        "{digits}e{}",
        number::two_digits(exponent.parse().unwrap_or(0))
    )
}

/// `%g` with so many digits.
fn general(n: f64, digits: usize) -> String {
    let digits = digits.max(1);
    let text = format!("{n:.*e}", digits - 1);
    let (shown, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || i64::from(exponent) >= digits as i64 {
        return format!("{}e{}", trimmed(shown), number::two_digits(exponent));
    }
    let decimals = usize::try_from(digits as i64 - 1 - i64::from(exponent)).unwrap_or(0);
    trimmed(&format!("{n:.decimals$}"))
}
