//! Container names: what is allowed, and made-up ones (an adjective and a surname).

use crate::EngineError;

/// Longest name accepted.
pub const MAX_NAME_LEN: usize = 255;

const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ample", "apt", "ardent", "artful", "astute", "balmy", "blithe", "bold",
    "brave", "breezy", "bright", "brisk", "calm", "candid", "careful", "cheery", "civil", "clever",
    "cosy", "crisp", "curious", "daring", "deft", "devoted", "diligent", "dreamy", "dulcet",
    "durable", "earnest", "easy", "elated", "elegant", "fabled", "fair", "faithful", "fearless",
    "fervent", "fleet", "fluent", "fond", "frank", "frosty", "gallant", "gentle", "genuine",
    "gifted", "glad", "golden", "graceful", "grand", "hardy", "hasty", "hearty", "honest",
    "humble", "jaunty", "jolly", "jovial", "keen", "kind", "lively", "loyal", "lucid", "lucky",
    "mellow", "merry", "mighty", "mindful", "modest", "neat", "nimble", "noble", "novel",
    "patient", "peaceful", "placid", "plucky", "polite", "proud", "prudent", "quick", "quiet",
    "radiant", "rapid", "ready", "robust", "rosy", "rustic", "serene", "sharp", "silent",
    "sincere", "sleek", "snug", "sober", "solid", "spry", "steady", "stoic", "sturdy", "sunny",
    "supple", "swift", "tender", "thrifty", "tidy", "tranquil", "trusty", "upbeat", "valiant",
    "vivid", "warm", "wise", "witty", "wry", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "agnesi",
    "aitken",
    "ampere",
    "anning",
    "apgar",
    "avogadro",
    "banach",
    "bernoulli",
    "bessel",
    "bohm",
    "boltzmann",
    "boole",
    "bose",
    "bragg",
    "brahe",
    "cantor",
    "carnot",
    "cauchy",
    "cayley",
    "celsius",
    "chandra",
    "chebyshev",
    "church",
    "clausius",
    "copernicus",
    "coulomb",
    "curie",
    "cuvier",
    "dalton",
    "darwin",
    "davy",
    "dedekind",
    "descartes",
    "dijkstra",
    "dirac",
    "doppler",
    "earhart",
    "edison",
    "ehrenfest",
    "einstein",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fourier",
    "franklin",
    "fresnel",
    "galilei",
    "galois",
    "galvani",
    "gauss",
    "germain",
    "gibbs",
    "godel",
    "goodall",
    "hadamard",
    "halley",
    "hamilton",
    "heisenberg",
    "herschel",
    "hertz",
    "hilbert",
    "hodgkin",
    "hooke",
    "hopper",
    "hubble",
    "humboldt",
    "huygens",
    "hypatia",
    "jacobi",
    "joule",
    "kepler",
    "kirchhoff",
    "knuth",
    "kovalevskaya",
    "lagrange",
    "laplace",
    "lavoisier",
    "legendre",
    "leibniz",
    "liskov",
    "lorentz",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "mendeleev",
    "mercator",
    "mobius",
    "napier",
    "newton",
    "nightingale",
    "noether",
    "ohm",
    "oersted",
    "pascal",
    "pasteur",
    "pauli",
    "peano",
    "planck",
    "poincare",
    "poisson",
    "ptolemy",
    "pythagoras",
    "raman",
    "ramanujan",
    "rayleigh",
    "riemann",
    "ritchie",
    "rontgen",
    "rutherford",
    "sagan",
    "schrodinger",
    "shannon",
    "somerville",
    "stirling",
    "stokes",
    "tarski",
    "tesla",
    "thales",
    "torricelli",
    "turing",
    "volta",
    "wallis",
    "watt",
    "weyl",
    "wiener",
    "wien",
    "yonath",
    "yukawa",
    "zeno",
];

/// Attempts to find a free made-up name before digits are added.
pub const PLAIN_ATTEMPTS: u32 = 6;

/// A made-up name. From `attempt` [`PLAIN_ATTEMPTS`] on, digits are added.
pub fn generate(attempt: u32) -> Result<String, EngineError> {
    let mut raw = [0u8; 8];
    getrandom::fill(&mut raw)
        .map_err(|e| EngineError::System(format!("no random bytes from the kernel: {e}")))?;
    Ok(from_random(u64::from_le_bytes(raw), attempt))
}

fn from_random(random: u64, attempt: u32) -> String {
    let adjective = ADJECTIVES[(random & 0xffff) as usize % ADJECTIVES.len()];
    let surname = SURNAMES[((random >> 16) & 0xffff) as usize % SURNAMES.len()];
    if attempt < PLAIN_ATTEMPTS {
        format!("{adjective}_{surname}")
    } else {
        format!("{adjective}_{surname}{}", (random >> 32) % 1_000_000)
    }
}

/// Checks a name a client gave and strips its leading slash.
pub fn validate(name: &str) -> Result<&str, EngineError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first_ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest_ok = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    // One character alone is not a name in Docker's grammar.
    if first_ok && rest_ok && bare.len() > 1 && bare.len() <= MAX_NAME_LEN {
        return Ok(bare);
    }
    Err(EngineError::InvalidParameter(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_valid() {
        for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            for attempt in [0, PLAIN_ATTEMPTS] {
                let name = from_random(random, attempt);
                assert_eq!(validate(&name).unwrap(), name);
                assert!(name.contains('_'));
            }
        }
        assert!(generate(0).unwrap().len() > 4);
    }

    #[test]
    fn word_lists_are_sorted_enough_to_have_no_duplicates() {
        for list in [ADJECTIVES, SURNAMES] {
            let set: std::collections::BTreeSet<_> = list.iter().collect();
            assert_eq!(set.len(), list.len());
        }
    }

    #[test]
    fn grammar() {
        assert_eq!(validate("/web-1.a_b").unwrap(), "web-1.a_b");
        for bad in [
            "",
            "/",
            "a",
            "-a",
            "a/b",
            "a b",
            "\u{e9}a",
            "//ab",
            &"a".repeat(256),
        ] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
