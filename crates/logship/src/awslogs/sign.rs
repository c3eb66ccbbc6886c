//! Amazon's signature of requests, version 4.

use std::fmt::Write;

use jiff::Timestamp;
use ring::{digest, hmac};

/// Whoever signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) key_id: String,
    pub(super) secret: String,
    /// Of credentials that end; empty otherwise.
    pub(super) token: String,
}

/// A time as the header `X-Amz-Date` has it.
pub(super) fn date_header(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The header `Authorization` of a POST to `/` with these headers, whose names are in lower case and in order.
pub(super) fn authorization(
    credentials: &Credentials,
    (region, service): (&str, &str),
    date: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let mut canonical = String::from("POST\n/\n\n");
    for (name, value) in headers {
        canonical.push_str(&format!("{name}:{}\n", value.trim()));
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    canonical.push_str(&format!("\n{names}\n{}", sha256(body)));
    let day = date.get(..8).unwrap_or(date);
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        sha256(canonical.as_bytes())
    );
    let first = format!("AWS4{}", credentials.secret).into_bytes();
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(first, |key, part| mac(&key, part.as_bytes()));
    let signature = hex(&mac(&key, text.as_bytes()));
    let id = &credentials.key_id;
    format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that Amazon's own library signed.
    #[test]
    fn the_signature_is_what_the_library_makes() {
        let credentials = Credentials {
            key_id: "AKID".to_owned(),
            secret: "SECRET".to_owned(),
            token: String::new(),
        };
        let headers = [
            (
                "amz-sdk-invocation-id",
                "ce4b9f81-f624-4be4-8e1a-568abc0461fe",
            ),
            ("amz-sdk-request", "attempt=1; max=3"),
            ("content-length", "44"),
            ("content-type", "application/x-amz-json-1.1"),
            ("host", "127.0.0.1:8089"),
            ("x-amz-date", "20261125T132805Z"),
            ("x-amz-target", "Logs_20140328.CreateLogStream"),
        ];
        let body = b"{\"logGroupName\":\"grp\",\"logStreamName\":\"str\"}";
        let place = ("us-east-1", "logs");
        let signed = authorization(&credentials, place, "20261125T132805Z", &headers, body);
        assert_eq!(
            signed,
            "AWS4-HMAC-SHA256 Credential=AKID/20261125/us-east-1/logs/aws4_request, \
             SignedHeaders=amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;\
             x-amz-target, Signature=5550133dada49ed580ce082b51e727108906a6653fba7351ea676c94350d32e0"
        );
    }
}
