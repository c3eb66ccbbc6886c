//! Ports of EXPOSE.

use super::invalid;
use crate::ImageError;

/// `port`, `first-last`, each with `/tcp`, `/udp` or `/sctp`; what stands before a colon (an address, a port of the
/// host) says nothing about the image. One key per port.
pub(super) fn exposed(spec: &str) -> Result<Vec<String>, ImageError> {
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let ports = ports.rsplit_once(':').map_or(ports, |(_, ports)| ports);
    if ports.is_empty() {
        return Err(invalid(format!("No port specified: {spec}<empty>")));
    }
    let bad = || invalid(format!("Invalid containerPort: {ports}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ports)?, number(ports)?),
    };
    if first > last {
        return Err(bad());
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid(format!("Invalid proto: {protocol}")));
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}
