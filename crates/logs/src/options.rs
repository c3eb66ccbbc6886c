//! Options of the drivers that write files.

use std::collections::BTreeMap;

use gantry_keeper_proto::shm::CARRY_BYTES;
use gantry_stream::MAX_LINE_BYTES;

/// Options of every driver that writes files.
const FILE_OPTIONS: &[&str] = &[
    "max-size",
    "max-file",
    "compress",
    "mode",
    "max-buffer-size",
    "max-line-size",
];
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
    /// An option of local with its value.
    #[error("invalid value for {0}: {1}: {2}")]
    Value(&'static str, String, Box<BadOption>),
    /// compress of local is no truth value.
    #[error("error reading compress log option: {0}")]
    LocalTruth(Box<BadOption>),
    /// max-file of local is below 0.
    #[error("max file count cannot be less than 0")]
    NegativeFiles,
    /// local has nothing to compress.
    #[error("compression cannot be enabled when max file count is 1")]
    OneFile,
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
    /// max-line-size is no size, or out of its range.
    #[error("max-line-size must be between 16k and 1m: {0}")]
    Line(String),
    /// A regular expression of labels-regex or env-regex.
    #[error("error parsing regexp: {1}: `{0}`")]
    Pattern(String, String),
    /// The tag.
    #[error(transparent)]
    Tag(crate::template::BadTemplate),
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Options of a file driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Rotate a file that has reached this size.
    pub max_size_bytes: Option<u64>,
    /// Keep so many files, the current one included (0 and 1: only the current one).
    pub max_files: u32,
    /// Rotated files are compressed.
    pub compress: bool,
    /// Longer lines are cut into parts; `None`: where Docker cuts.
    pub max_line_bytes: Option<usize>,
    /// Added to every record.
    pub attrs: BTreeMap<String, String>,
}

impl FileOptions {
    /// From a container's or the daemon's options of `json-file`. `attrs` (from `labels`, `env`, `tag`) comes from
    /// [`crate::LogInfo`].
    pub fn parse<'a>(
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<FileOptions, BadOption> {
        let opts: BTreeMap<&str, &str> = opts.into_iter().collect();
        check_known(&opts, &[ATTRIBUTE_OPTIONS, CACHE_OPTIONS], |name| {
            BadOption::Unknown(name.to_owned())
        })?;
        let mut options = FileOptions {
            max_files: 1,
            max_line_bytes: max_line(&opts)?,
            ..FileOptions::default()
        };
        if let Some(text) = opts.get("max-size") {
            let bytes = parse_size(text, 1000.0)?;
            if bytes == 0 {
                return Err(BadOption::NoSize);
            }
            options.max_size_bytes = Some(bytes);
        }
        if let Some(text) = opts.get("max-file") {
            let files = u32::try_from(parse_files(text)?).unwrap_or(0);
            if files < 1 {
                return Err(BadOption::NoFiles);
            }
            options.max_files = files;
        }
        if let Some(text) = opts.get("compress") {
            options.compress = parse_bool(text)?;
        }
        match options.compress && (options.max_files < 2 || options.max_size_bytes.is_none()) {
            true => Err(BadOption::NothingToCompress),
            false => Ok(options),
        }
    }

    /// From the options of `local`.
    pub fn parse_local<'a>(
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<FileOptions, BadOption> {
        let opts: BTreeMap<&str, &str> = opts.into_iter().collect();
        check_known(&opts, &[], |name| BadOption::UnknownLocal(name.to_owned()))?;
        let mut options = FileOptions {
            max_size_bytes: Some(LOCAL_MAX_SIZE_BYTES),
            max_files: LOCAL_MAX_FILES,
            compress: true,
            max_line_bytes: max_line(&opts)?,
            attrs: BTreeMap::new(),
        };
        let bad = |name, text: &str, e| BadOption::Value(name, text.to_owned(), Box::new(e));
        if let Some(text) = opts.get("max-size") {
            let bytes = parse_size(text, 1000.0).map_err(|e| bad("max-size", text, e))?;
            options.max_size_bytes = Some(bytes);
        }
        if let Some(text) = opts.get("max-file") {
            let files = parse_files(text).map_err(|e| bad("max-file", text, e))?;
            options.max_files = u32::try_from(files).map_err(|_| BadOption::NegativeFiles)?;
        }
        if let Some(text) = opts.get("compress") {
            options.compress = parse_bool(text).map_err(|e| BadOption::LocalTruth(Box::new(e)))?;
        }
        match options.compress && options.max_files <= 1 {
            true => Err(BadOption::OneFile),
            false => Ok(options),
        }
    }
}

/// Ours, not Docker's: how long a record may be.
fn max_line(opts: &BTreeMap<&str, &str>) -> Result<Option<usize>, BadOption> {
    let Some(text) = opts.get("max-line-size") else {
        return Ok(None);
    };
    let bytes = parse_size(text, 1024.0)
        .ok()
        .and_then(|n| usize::try_from(n).ok());
    let fits = bytes.filter(|n| (CARRY_BYTES..=MAX_LINE_BYTES).contains(n));
    fits.map(Some)
        .ok_or_else(|| BadOption::Line((*text).to_owned()))
}

/// Go's `strconv.Atoi`; what is too large is the largest number.
fn parse_files(text: &str) -> Result<i64, BadOption> {
    let number: i64 = text
        .parse()
        .map_err(|_| BadOption::Files(text.to_owned()))?;
    Ok(number.min(i64::from(u32::MAX)))
}

/// Refuses what is no option of the driver, and a delivery that is none.
fn check_known(
    opts: &BTreeMap<&str, &str>,
    others: &[&[&str]],
    unknown: impl Fn(&str) -> BadOption,
) -> Result<(), BadOption> {
    check_delivery(opts)?;
    let known =
        |name: &&str| FILE_OPTIONS.contains(name) || others.iter().any(|list| list.contains(name));
    match opts.keys().find(|name| !known(name)) {
        Some(name) => Err(unknown(name)),
        None => Ok(()),
    }
}

/// Most bytes that wait with `mode=non-blocking` where the options say no more. Docker's default.
pub const DEFAULT_BUFFER_BYTES: u64 = 1024 * 1024;

/// With `mode=non-blocking`: most bytes of output that wait for the log.
pub fn buffer_bytes(opts: &BTreeMap<&str, &str>) -> Option<u64> {
    if opts.get("mode") != Some(&"non-blocking") {
        return None;
    }
    let size = opts.get("max-buffer-size");
    let size = size.and_then(|text| parse_size(text, 1024.0).ok());
    Some(size.unwrap_or(DEFAULT_BUFFER_BYTES))
}

/// Checks `mode` and `max-buffer-size`.
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
