use super::*;
use proptest::prelude::*;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn check(test: &[&str]) -> HealthCheck {
    HealthCheck {
        test: words(test),
        ..HealthCheck::default()
    }
}

fn result(exit_code: i32) -> ProbeResult {
    ProbeResult {
        exit_code,
        ..ProbeResult::default()
    }
}

#[test]
fn kinds_of_checks() {
    let of = |test: &[&str], shell: &[&str]| {
        command(&ContainerConfig {
            health: Some(check(test)),
            shell: words(shell),
            ..ContainerConfig::default()
        })
    };
    assert_eq!(of(&["CMD", "a", "b"], &["sh"]), Some(words(&["a", "b"])));
    assert_eq!(
        of(&["CMD-SHELL", "a b"], &[]),
        Some(words(&["/bin/sh", "-c", "a b"]))
    );
    assert_eq!(
        of(&["CMD-SHELL", "a"], &["/bin/bash", "-ec"]),
        Some(words(&["/bin/bash", "-ec", "a"]))
    );
    for none in [&["NONE"][..], &[], &["FOO", "x"], &["cmd", "x"]] {
        assert_eq!(of(none, &[]), None);
    }
    assert_eq!(command(&ContainerConfig::default()), None);
}

#[test]
fn merged_field_by_field() {
    let image = HealthCheck {
        interval_ns: 1,
        timeout_ns: 2,
        start_period_ns: 3,
        start_interval_ns: 4,
        retries: 5,
        ..check(&["CMD", "i"])
    };
    let merged = |own: Option<HealthCheck>| {
        let mut own = own;
        merge(&mut own, Some(&image));
        own.unwrap()
    };
    assert_eq!(merged(None), image);
    assert_eq!(merged(Some(HealthCheck::default())), image);
    let own = HealthCheck {
        timeout_ns: 20,
        retries: 50,
        ..check(&["NONE"])
    };
    let expected = HealthCheck {
        test: words(&["NONE"]),
        timeout_ns: 20,
        retries: 50,
        ..image.clone()
    };
    assert_eq!(merged(Some(own.clone())), expected);
    let mut alone = Some(own.clone());
    merge(&mut alone, None);
    assert_eq!(alone, Some(own));
}

#[test]
fn intervals() {
    const S: i64 = 1_000_000_000;
    let seconds = Duration::from_secs;
    let plain = check(&["CMD", "x"]);
    assert_eq!(
        next_delay(&plain, HealthStatus::Starting, Duration::ZERO),
        DEFAULT_INTERVAL
    );
    let starting = HealthCheck {
        interval_ns: S,
        start_period_ns: 10 * S,
        ..plain
    };
    for (status, since, expected) in [
        // Longer than the interval, and it counts all the same.
        (HealthStatus::Starting, 0, DEFAULT_START_INTERVAL),
        (HealthStatus::Starting, 10, seconds(1)),
        (HealthStatus::Healthy, 0, seconds(1)),
        (HealthStatus::Unhealthy, 0, seconds(1)),
    ] {
        assert_eq!(next_delay(&starting, status, seconds(since)), expected);
    }
}

#[test]
fn failures_count_after_the_start_period_or_a_success() {
    const S: i64 = 1_000_000_000;
    let check = HealthCheck {
        start_period_ns: 10 * S,
        retries: 2,
        ..check(&["CMD", "x"])
    };
    let early = Duration::from_secs(1);
    let step = |health, code, since| after_probe(health, &check, result(code), since);
    let failed = step(Health::default(), 1, early);
    assert_eq!(
        (failed.status, failed.failing_streak),
        (HealthStatus::Starting, 0)
    );
    let late = step(failed.clone(), 1, Duration::from_secs(10));
    assert_eq!(
        (late.status, late.failing_streak),
        (HealthStatus::Starting, 1)
    );
    let healthy = step(failed, 0, early);
    assert_eq!(healthy.status, HealthStatus::Healthy);
    let once = step(healthy, 1, early);
    assert_eq!(
        (once.status, once.failing_streak),
        (HealthStatus::Healthy, 1)
    );
    let twice = step(once, -1, early);
    assert_eq!(
        (twice.status, twice.failing_streak),
        (HealthStatus::Unhealthy, 2)
    );
    assert_eq!(step(twice, 0, early).failing_streak, 0);
}

#[test]
fn a_life() {
    let started = after_transition(None, Status::Created, Status::Running).unwrap();
    assert_eq!(started, Health::default());
    let healthy = after_probe(started, &check(&["CMD", "x"]), result(0), Duration::ZERO);
    let paused = after_transition(Some(healthy), Status::Running, Status::Paused).unwrap();
    assert_eq!(paused.status, HealthStatus::Unhealthy);
    let thawed = after_transition(Some(paused.clone()), Status::Paused, Status::Running);
    assert_eq!(thawed.as_ref(), Some(&paused));
    let ended = after_transition(thawed, Status::Running, Status::Exited).unwrap();
    assert_eq!(ended, paused);
    let again = after_transition(Some(ended), Status::Exited, Status::Running).unwrap();
    assert_eq!((again.status, again.log.len()), (HealthStatus::Starting, 1));
    assert_eq!(
        after_transition(None, Status::Created, Status::Removing),
        None
    );
}

#[test]
fn output_is_cut_and_made_text() {
    let mut output = Output::default();
    output.push(b"a\xff\xfe\0b");
    assert_eq!(output.text(), "a\u{fffd}\u{fffd}\0b");
    let mut exact = Output::default();
    exact.push(&[b'x'; MAX_PROBE_OUTPUT_BYTES]);
    exact.push(b"");
    assert_eq!(exact.text().len(), MAX_PROBE_OUTPUT_BYTES);
    exact.push(b"y");
    assert_eq!(exact.text().len(), MAX_PROBE_OUTPUT_BYTES + 3);
    assert!(exact.text().ends_with("x..."));
}

#[test]
fn spans_as_go_writes_them() {
    for (ns, text) in [
        (0, "0s"),
        (5, "5ns"),
        (1_500, "1.5µs"),
        (700_000_000, "700ms"),
        (1_000_001, "1.000001ms"),
        (1_000_000_000, "1s"),
        (1_050_000_000, "1.05s"),
        (60_000_000_000, "1m0s"),
        (90_500_000_000, "1m30.5s"),
        (3_600_000_000_000, "1h0m0s"),
        (90_061_000_000_001, "25h1m1.000000001s"),
    ] {
        assert_eq!(go_duration(Duration::from_nanos(ns)), text);
    }
    assert_eq!(
        timed_out(Duration::from_secs(30), "hi\n"),
        "Health check exceeded timeout (30s): hi\n"
    );
}

proptest! {
    /// Whatever probes find: the log is bounded, and the streak says how many failed since the last success.
    #[test]
    fn walks(codes in proptest::collection::vec(-1i32..3, 0..40), retries in -1i64..5) {
        let check = HealthCheck { retries, ..check(&["CMD", "x"]) };
        let (mut health, mut streak) = (Health::default(), 0u32);
        for (n, code) in codes.iter().enumerate() {
            health = after_probe(health, &check, result(*code), Duration::ZERO);
            streak = if *code == 0 { 0 } else { streak + 1 };
            prop_assert_eq!(health.failing_streak, streak);
            prop_assert_eq!(health.log.len(), (n + 1).min(MAX_HEALTH_RESULTS));
            prop_assert_eq!(health.log.last().unwrap().exit_code, *code);
            prop_assert!(health.status != HealthStatus::Healthy || *code == 0 || streak < 4);
        }
    }
}
