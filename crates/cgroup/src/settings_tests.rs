use super::*;
use crate::limits::DeviceWeight;

fn pairs(settings: Vec<Setting>) -> Vec<(&'static str, String)> {
    settings
        .into_iter()
        .map(|one| (one.files[0], one.value))
        .collect()
}

fn text(list: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    list.iter()
        .map(|(file, value)| (*file, (*value).to_owned()))
        .collect()
}

#[test]
fn nothing_asked_nothing_written() {
    let limits = Limits::default();
    assert_eq!(v1(&limits).unwrap(), []);
    assert_eq!(v1_memory(&limits, 0).unwrap(), []);
    assert_eq!(v2(&limits).unwrap(), []);
}

#[test]
fn cpus_become_quota_and_period() {
    let limits = Limits {
        nano_cpus: Some(1_500_000_000),
        cpu_shares: Some(1024),
        pids_max: Some(0),
        ..Limits::default()
    };
    let expected = [
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "150000"),
        ("pids.max", "max"),
    ];
    assert_eq!(pairs(v1(&limits).unwrap()), text(&expected));
    let expected = [
        ("cpu.weight", "100"),
        ("cpu.max", "150000 100000"),
        ("pids.max", "max"),
    ];
    assert_eq!(pairs(v2(&limits).unwrap()), text(&expected));
    let none = Limits {
        nano_cpus: Some(-1),
        ..Limits::default()
    };
    assert!(v1(&none).is_err() && v2(&none).is_err());
}

#[test]
fn memory_is_never_above_memory_plus_swap() {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        memory_swap_bytes: Some(128 << 20),
        ..Limits::default()
    };
    let order = |current| pairs(v1_memory(&limits, current).unwrap())[0].0;
    assert_eq!(order(u64::MAX >> 1), "memory.limit_in_bytes");
    assert_eq!(order(32 << 20), "memory.memsw.limit_in_bytes");
    let swapped = [("memory.swap.max", "67108864"), ("memory.max", "67108864")];
    assert_eq!(pairs(v2(&limits).unwrap()), text(&swapped));

    let lifted = Limits {
        memory_bytes: Some(UNLIMITED),
        ..Limits::default()
    };
    let expected = [
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", "-1"),
    ];
    assert_eq!(pairs(v1_memory(&lifted, 5).unwrap()), text(&expected));
    let expected = [("memory.swap.max", "max"), ("memory.max", "max")];
    assert_eq!(pairs(v2(&lifted).unwrap()), text(&expected));
}

#[test]
fn swap_below_memory_is_refused() {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        memory_swap_bytes: Some(1 << 20),
        ..Limits::default()
    };
    assert!(v1_memory(&limits, 0).is_err() && v2(&limits).is_err());
}

#[test]
fn shares_cover_the_whole_range_of_weights() {
    assert_eq!(weight_of_shares(0), 1);
    assert_eq!(weight_of_shares(2), 1);
    assert_eq!(weight_of_shares(MAX_SHARES), 10_000);
    assert_eq!(weight_of_shares(u64::MAX), 10_000);
    // As runc 1.3 writes them.
    for (shares, weight) in [
        (10, 4),
        (100, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (4096, 303),
        (100_000, 4340),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    assert!((MIN_SHARES..5000).all(|n| weight_of_shares(n) <= weight_of_shares(n + 1)));
}

#[test]
fn block_devices() {
    let limits = Limits {
        blkio_weight: Some(1000),
        read_bytes_per_s: vec![Throttle {
            major: 8,
            minor: 0,
            rate: 1_048_576,
        }],
        ..Limits::default()
    };
    let expected = [
        ("blkio.bfq.weight", "1000"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
    ];
    assert_eq!(pairs(v1(&limits).unwrap()), text(&expected));
    let expected = [
        ("io.bfq.weight", "default 1000"),
        ("io.max", "8:0 rbps=1048576"),
    ];
    let settings = v2(&limits).unwrap();
    let places: Vec<_> = settings[0].places().collect();
    let expected_places = [
        ("io.bfq.weight", "default 1000"),
        ("io.weight", "default 10000"),
    ];
    assert_eq!(places, expected_places);
    assert_eq!(pairs(settings), text(&expected));
}

#[test]
fn weights_of_block_devices() {
    let limits = Limits {
        blkio_weight_devices: vec![DeviceWeight {
            major: 254,
            minor: 16,
            weight: 200,
        }],
        ..Limits::default()
    };
    let settings = v2(&limits).unwrap();
    let places: Vec<_> = settings.iter().flat_map(Setting::places).collect();
    let expected = [("io.bfq.weight", "254:16 200")];
    assert_eq!(places, expected);
    assert_eq!((stretched_weight(10), stretched_weight(1000)), (1, 10_000));
}
