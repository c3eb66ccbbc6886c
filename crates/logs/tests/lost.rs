//! A log that cannot be opened for a while: what was committed stays, what is lost is said.

mod common;

use common::{BEGIN_NS, FORMATS, both, commit, lines, open, text};
use gantry_keeper_proto::shm::{Carry, SlotState};
use gantry_logs::{LogFiles, LostLog, loss_counters, read};
use gantry_rt::testing::on_shard;
use gantry_stream::{LogSink, Stream};

/// What the journal has after a commit.
fn journaled(log: &dyn LogSink) -> SlotState {
    let position = log.position();
    let carry = |stream| {
        let (bytes, partial_time_ns) = log.carry(stream);
        Carry {
            bytes: bytes.to_vec(),
            partial_time_ns,
        }
    };
    SlotState {
        log_bytes: position.bytes,
        log_id: position.file_id,
        carry: [carry(Stream::Stdout), carry(Stream::Stderr)],
        lost: log.lost(),
        ..SlotState::default()
    }
}

#[test]
fn a_log_goes_on_where_it_was_and_says_what_was_lost() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[]);
            log.append(Stream::Stdout, &lines(0..10), BEGIN_NS);
            log.append(Stream::Stdout, b"par", BEGIN_NS);
            commit(&mut log);
            let mut state = journaled(&log);
            log.append(Stream::Stdout, b"never committed\n", BEGIN_NS);
            log.write().expect("write");
            drop(log);

            let before = loss_counters();
            // Two daemons, one after the other.
            for output in [&b"tial\nli"[..], b"ne\nha"] {
                let mut lost = LostLog::new(&std::io::Error::from_raw_os_error(libc::EROFS));
                lost.restore(&state).expect("restore");
                lost.append(Stream::Stdout, output, BEGIN_NS);
                assert_eq!(
                    lost.write().expect_err("lost").raw_os_error(),
                    Some(libc::EROFS)
                );
                lost.committed();
                let next = journaled(&lost);
                assert_eq!(
                    (next.log_bytes, next.log_id),
                    (state.log_bytes, state.log_id),
                    "{format:?}"
                );
                state = next;
                let position = lost.position();
                let now = LogFiles::of_path(&path, format, both()).expect("read");
                assert_eq!(
                    text(now.up_to(Some(position)).read()).await,
                    lines(0..10),
                    "{format:?}"
                );
            }
            let after = loss_counters();
            assert!(after.lost_bytes - before.lost_bytes >= 13);
            assert!(after.lost_records - before.lost_records >= 2);

            let mut log = open(&path, format, &[]);
            log.restore(&state).expect("restore");
            log.append(Stream::Stderr, b"", BEGIN_NS);
            commit(&mut log);
            assert_eq!(log.lost(), Default::default());
            log.append(Stream::Stdout, b"lf\n", BEGIN_NS);
            commit(&mut log);
            let got = text(read(&log.state(), both()).expect("read")).await;
            let said = "[gantry: 13 bytes of output in 2 records are missing here: the log could not be written (Read-only file system)]\n";
            let want = [&lines(0..10), said.as_bytes(), b"half\n"].concat();
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&want),
                "{format:?}"
            );
        }
    });
}

#[test]
fn a_file_that_no_commit_names_is_not_cut() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[]);
            log.append(Stream::Stdout, &lines(0..10), BEGIN_NS);
            commit(&mut log);
            let mut state = journaled(&log);
            drop(log);
            // As after a copy of the data root to another file system.
            state.log_id += 1_000_000;
            let mut log = open(&path, format, &[]);
            log.restore(&state).expect("restore");
            log.append(Stream::Stdout, &lines(10..20), BEGIN_NS);
            commit(&mut log);
            let got = text(read(&log.state(), both()).expect("read")).await;
            assert_eq!(got, lines(0..20), "{format:?}");
        }
    });
}
