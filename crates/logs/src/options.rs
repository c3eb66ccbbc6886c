//! Options of the drivers that write files.

use std::collections::BTreeMap;

/// Options that the caller turns into attributes of the records.
const ATTRIBUTE_OPTIONS: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
/// Options of dockerd's copy of logs it could not read back otherwise; our logs are read where they are.
const CACHE_OPTIONS: &[&str] = &[
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];
/// What driver `local` keeps by default.
const LOCAL_MAX_SIZE_BYTES: u64 = 20_000_000;
const LOCAL_MAX_FILES: u32 = 5;

/// A log option cannot be used. The texts are Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// Not an option of json-file.
    #[error("unknown log opt '{0}' for json-file log driver")]
    Unknown(String),
    /// Not an option of local.
    #[error("unknown log opt '{0}' for log driver local")]
    UnknownLocal(String),
    /// A size without a number.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// A size with another unit than bytes, k, m, g, t, p.
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
    /// max-size is 0.
    #[error("max-size must be a positive number")]
    NoSize,
    /// max-file is no number.
    #[error("strconv.Atoi: parsing {}: invalid syntax", quoted(.0))]
    Files(String),
    /// max-file is 0 or less.
    #[error("max-file cannot be less than 1")]
    NoFiles,
    /// compress is no truth value.
    #[error("strconv.ParseBool: parsing {}: invalid syntax", quoted(.0))]
    Truth(String),
    /// There is nothing to compress.
    #[error("compress cannot be true when max-file is less than 2 or max-size is not set")]
    NothingToCompress,
    /// Delivery is neither blocking nor non-blocking.
    #[error("logger: logging mode not supported: {0}")]
    Mode(String),
    /// A buffer that nobody fills.
    #[error("logger: max-buffer-size option is only supported with 'mode=non-blocking'")]
    BufferWithoutMode,
    /// max-buffer-size is no size.
    #[error("error parsing option max-buffer-size: {0}")]
    Buffer(Box<BadOption>),
    /// A regular expression of labels-regex or env-regex.
    #[error("error parsing regexp: {1}: `{0}`")]
    Pattern(String, String),
    /// The tag.
    #[error(transparent)]
    Tag(crate::template::BadTemplate),
    /// Docker has it, this daemon has not.
    #[error("the log opt {0} is not implemented yet")]
    NotBuilt(&'static str),
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Options of a file driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonFileOptions {
    /// Rotate a file that has reached this size.
    pub max_size_bytes: Option<u64>,
    /// Keep so many files, the current one included (0 and 1: only the current one).
    pub max_files: u32,
    /// Added to every record.
    pub attrs: BTreeMap<String, String>,
}

impl JsonFileOptions {
    /// From a container's or the daemon's options of `json-file`. `attrs` (from `labels`, `env`, `tag`) comes from
    /// [`crate::LogInfo`].
    pub fn parse<'a>(
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<JsonFileOptions, BadOption> {
        let options = JsonFileOptions {
            max_files: 1,
            ..JsonFileOptions::default()
        };
        options.read(opts, false, &[ATTRIBUTE_OPTIONS, CACHE_OPTIONS], |name| {
            BadOption::Unknown(name.to_owned())
        })
    }

    /// From the options of `local`.
    pub fn parse_local<'a>(
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<JsonFileOptions, BadOption> {
        let options = JsonFileOptions {
            max_size_bytes: Some(LOCAL_MAX_SIZE_BYTES),
            max_files: LOCAL_MAX_FILES,
            ..JsonFileOptions::default()
        };
        options.read(opts, true, &[], |name| {
            BadOption::UnknownLocal(name.to_owned())
        })
    }

    fn read<'a>(
        mut self,
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
        may_compress: bool,
        others: &[&[&str]],
        unknown: impl Fn(&str) -> BadOption,
    ) -> Result<JsonFileOptions, BadOption> {
        let opts: BTreeMap<&str, &str> = opts.into_iter().collect();
        check_delivery(&opts)?;
        let known = |name: &&str| {
            [
                "max-size",
                "max-file",
                "compress",
                "mode",
                "max-buffer-size",
            ]
            .contains(name)
                || others.iter().any(|list| list.contains(name))
        };
        if let Some(name) = opts.keys().find(|name| !known(name)) {
            return Err(unknown(name));
        }
        if let Some(text) = opts.get("max-size") {
            let bytes = parse_size(text, 1000.0)?;
            if bytes == 0 {
                return Err(BadOption::NoSize);
            }
            self.max_size_bytes = Some(bytes);
        }
        if let Some(text) = opts.get("max-file") {
            let files: i64 = text
                .parse()
                .map_err(|_| BadOption::Files((*text).to_owned()))?;
            if files < 1 {
                return Err(BadOption::NoFiles);
            }
            self.max_files = u32::try_from(files).unwrap_or(u32::MAX);
        }
        if let Some(text) = opts.get("compress")
            && parse_bool(text)?
            && !may_compress
        {
            if self.max_files < 2 || self.max_size_bytes.is_none() {
                return Err(BadOption::NothingToCompress);
            }
            return Err(BadOption::NotBuilt("compress"));
        }
        Ok(self)
    }
}

/// Checks `mode` and `max-buffer-size`. Neither needs more: what a container prints waits for its log's write(2) only.
pub fn check_delivery(opts: &BTreeMap<&str, &str>) -> Result<(), BadOption> {
    let mode = opts.get("mode").copied().unwrap_or_default();
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(BadOption::Mode(mode.to_owned()));
    }
    if let Some(text) = opts.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(BadOption::BufferWithoutMode);
        }
        parse_size(text, 1024.0).map_err(|e| BadOption::Buffer(Box::new(e)))?;
    }
    Ok(())
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Result<bool, BadOption> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BadOption::Truth(text.to_owned())),
    }
}

/// A size in bytes as Docker's units read it: "10m", "1.5k", "10 kb", "100"; `base` is what k stands for.
pub fn parse_size(text: &str, base: f64) -> Result<u64, BadOption> {
    let bad = || BadOption::Size(text.to_owned());
    let last = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or_else(bad)?;
    let (number, suffix) = match text.as_bytes()[last] {
        b' ' => (&text[..last], &text[last + 1..]),
        _ => text.split_at(last + 1),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    if number.is_nan() || number < 0.0 {
        return Err(bad());
    }
    let power = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(BadOption::Suffix(suffix.to_owned())),
    };
    // A float beyond the range becomes the largest number.
    Ok((number * base.powi(power)) as u64)
}
