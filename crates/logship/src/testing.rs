//! What the tests of the drivers share.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_logs::Record;
use gantry_stream::Stream;

use crate::Refused;

pub(crate) fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(owned).collect()
}

pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Refused>) -> String {
    result.unwrap_err().0
}

pub(crate) fn record(time_ns: u64, stream: Stream, line: impl AsRef<[u8]>) -> Record {
    Record {
        time_ns,
        stream,
        bytes: Bytes::copy_from_slice(line.as_ref()),
        partial: None,
        gap: false,
    }
}
