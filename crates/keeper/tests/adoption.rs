//! A daemon dies by `kill -9`; the next one finds its containers, their exits and every byte they printed.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Host, code, connect, exited, finish, launch};
use gantry_keeper_proto::shm::{
    BUFFERS_OFFSET, CQ_ENTRIES, Cqe, JournalMap, Lost, RING_BUFFER_BYTES, RINGS_OFFSET,
    RingGeometry, RingMap, SlotCommit, SpillReader, SpillRecord, Stream, UserData,
};
use gantry_launch::{HandOver, KeeperClient};
use gantry_rt::testing::on_shard;

/// Tells a child process of this test which directory to be a daemon in, and what kind.
const ROLE_DIR: &str = "GANTRY_TEST_DAEMON_DIR";
const ROLE_KIND: &str = "GANTRY_TEST_DAEMON_KIND";
/// Lines of the printing container; more than a pipe holds.
const LINES: usize = 60_000;

/// Not a test: the daemon that will be killed.
#[test]
fn daemon_role() {
    let (Ok(dir), Ok(kind)) = (std::env::var(ROLE_DIR), std::env::var(ROLE_KIND)) else {
        return;
    };
    on_shard(move || async move {
        let host = Host::at(PathBuf::from(dir));
        let (client, _) = connect(&host.exec_root()).await;
        let mut held = Vec::new();
        if kind == "ring" {
            held.push(launch(&client, host.spec(&["sleep", "1000"])).await);
            let ring = ring_with_output(held[0].process.slot, held[0].process.generation, &client);
            client
                .set_ring(ring.map().fd(), client.epoch())
                .await
                .expect("set ring");
        }
        if kind == "containers" {
            let printer = format!("seq 1 {LINES}; echo last >&2; exit 3");
            let mut waiter = host.spec(&["sh", "-c", "read line; echo got $line; exit 4"]);
            waiter.open_stdin = true;
            let mut terminal = host.spec(&["sh", "-c", "echo tty; sleep 1000"]);
            terminal.tty = true;
            for spec in [host.spec(&["sh", "-c", &printer]), waiter, terminal] {
                held.push(launch(&client, spec).await);
            }
        }
        std::fs::write(host.dir.join("ready"), client.keeper_pid().to_string()).expect("write");
        gantry_rt::sleep(Duration::from_secs(60)).await;
        drop(held);
    });
}

/// A ring as a pump leaves it that was killed between a commit and the next: four completions, the first committed.
fn ring_with_output(slot: u32, generation: u16, client: &KeeperClient) -> RingMap {
    let ring = RingMap::create(client.epoch()).expect("ring");
    let at = |n: usize| (RINGS_OFFSET + n) as u32;
    let geometry = RingGeometry {
        cq_head: at(0),
        cq_tail: at(4),
        cqes: at(64),
        cq_entries: CQ_ENTRIES,
    };
    ring.publish(geometry);
    let texts = [("old ", 1), ("new ", 1), ("error ", 2), ("newest", 1)];
    for (i, (text, stream)) in texts.into_iter().enumerate() {
        ring.map()
            .write(BUFFERS_OFFSET + i * RING_BUFFER_BYTES, text.as_bytes());
        let stream = Stream::from_number(stream).expect("stream");
        let user_data = UserData {
            slot,
            generation,
            stream,
        }
        .encode();
        let cqe = [
            user_data.to_ne_bytes(),
            (text.len() as u64 | (u64::from(Cqe::F_BUFFER | Cqe::F_MORE) | (i as u64) << 16) << 32)
                .to_ne_bytes(),
        ];
        ring.map()
            .write(geometry.cqes as usize + i * 16, cqe.as_flattened());
    }
    ring.map()
        .atomic_u32(geometry.cq_tail as usize)
        .store(texts.len() as u32, Ordering::Release);
    let journal = JournalMap::open(client.journal_memfd().expect("journal")).expect("journal");
    let commit = SlotCommit {
        ring_epoch: client.epoch(),
        cq_seq: 1,
        log_bytes: 0,
        log_id: 0,
        spill_offset: 0,
        carry: [(&[], 0), (&[], 0)],
        raw_bytes: [0; 2],
        lost: Lost::default(),
        spill_end: 0,
        long_carry: [0; 2],
    };
    journal.commit(slot, &commit).expect("commit");
    ring
}

fn start_daemon(dir: &Path, kind: &str) -> (Child, i32) {
    let mut child = Command::new(std::env::current_exe().expect("own program"))
        .args(["daemon_role", "--exact", "--nocapture"])
        .env(ROLE_DIR, dir)
        .env(ROLE_KIND, kind)
        .spawn()
        .expect("start the daemon");
    let ready = dir.join("ready");
    for _ in 0..200 {
        if let Some(pid) = std::fs::read_to_string(&ready)
            .ok()
            .and_then(|t| t.parse().ok())
        {
            return (child, pid);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    panic!("the daemon did not get ready");
}

fn kill(mut child: Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

async fn wait_for_end(pid: i32) {
    for _ in 0..100 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        gantry_rt::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {pid} is still there");
}

/// Everything a container printed: the spill, then what is still in its pipes.
async fn output(hand_over: HandOver) -> BTreeMap<&'static str, Vec<u8>> {
    let mut all = BTreeMap::from([("stdout", Vec::new()), ("stderr", Vec::new())]);
    if let Some(file) = hand_over.spill {
        let mut reader = SpillReader::new(file, 0, hand_over.spill_bytes);
        while let Some(record) = reader.next_record().expect("spill") {
            let SpillRecord::Data { stream, bytes, .. } = record else {
                panic!("a gap")
            };
            let name = if stream == Stream::Stdout {
                "stdout"
            } else {
                "stderr"
            };
            all.entry(name).or_default().extend_from_slice(&bytes);
        }
    }
    for (name, fd) in [("stdout", hand_over.stdout), ("stderr", hand_over.stderr)] {
        if let Some(fd) = fd {
            let rest = common::read_all(fd).await;
            all.entry(name).or_default().extend(rest);
        }
    }
    all
}

async fn forget(client: &KeeperClient, host: &Host, id: &str) {
    client.forget(id).await.expect("forget");
    let group =
        gantry_cgroup::Group::open(&host.hierarchy, &host.cgroup_parent(), id).expect("group");
    group.remove().expect("remove the group");
}

#[test]
fn a_killed_daemon_loses_nothing() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (daemon, keeper) = start_daemon(&host.dir, "containers");
        kill(daemon);
        // Long enough for the keeper to see it and to spill what the printer goes on to print.
        gantry_rt::sleep(Duration::from_millis(500)).await;
        let (client, mut adopted) = connect(&host.exec_root()).await;
        assert_eq!(client.keeper_pid(), keeper, "the same keeper");
        adopted.sort_by_key(|c| c.slot);
        let [printer, waiter, terminal] = adopted.as_slice() else {
            panic!("{adopted:?}")
        };
        assert!(waiter.stdin_open && terminal.tty && !printer.tty);
        JournalMap::open(client.journal_memfd().expect("journal")).expect("journal");

        let exit = exited(&client, &printer.id).await;
        assert_eq!(code(exit.wait_status), 3);
        let spilled = client.handover(&printer.id).await.expect("hand over");
        assert!(spilled.spill_bytes > 0);
        let all = output(spilled).await;
        let wanted: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
        assert!(
            all["stdout"] == wanted.as_bytes(),
            "{} of {} bytes",
            all["stdout"].len(),
            wanted.len()
        );
        assert_eq!(all["stderr"], b"last\n");
        forget(&client, &host, &printer.id).await;

        let taken = client.handover(&waiter.id).await.expect("hand over");
        let mut stdin = File::from(
            taken
                .stdin
                .as_ref()
                .expect("stdin")
                .try_clone()
                .expect("dup"),
        );
        std::io::Write::write_all(&mut stdin, b"it\n").expect("write");
        drop(stdin);
        assert_eq!(code(exited(&client, &waiter.id).await.wait_status), 4);
        assert_eq!(output(taken).await["stdout"], b"got it\n");
        forget(&client, &host, &waiter.id).await;

        let taken = client.handover(&terminal.id).await.expect("hand over");
        let mut reader = SpillReader::new(taken.spill.expect("spill"), 0, taken.spill_bytes);
        let record = reader.next_record().expect("spill");
        assert!(matches!(record, Some(SpillRecord::Data { bytes, .. }) if bytes == b"tty\r\n"));
        assert!(taken.tty_master.is_some());
        client
            .signal(&terminal.id, libc::SIGKILL)
            .await
            .expect("kill");
        assert_eq!(
            code(exited(&client, &terminal.id).await.wait_status),
            128 + 9
        );
        forget(&client, &host, &terminal.id).await;

        finish(&client).await;
        let left: Vec<_> = std::fs::read_dir(host.exec_root())
            .expect("exec root")
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| name != "keeper-0.log")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn what_a_dead_daemons_ring_holds_is_saved_once() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (daemon, _) = start_daemon(&host.dir, "ring");
        kill(daemon);
        let (client, adopted) = connect(&host.exec_root()).await;
        let [container] = adopted.as_slice() else {
            panic!("{adopted:?}")
        };
        let id = &container.id;
        let taken = client.handover(id).await.expect("hand over");
        client.signal(id, libc::SIGKILL).await.expect("kill");
        exited(&client, id).await;
        let all = output(taken).await;
        assert_eq!(String::from_utf8_lossy(&all["stdout"]), "new newest");
        assert_eq!(String::from_utf8_lossy(&all["stderr"]), "error ");
        forget(&client, &host, id).await;
        finish(&client).await;
    });
}

#[test]
fn exits_are_told_again_until_forgotten() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (daemon, _) = start_daemon(&host.dir, "containers");
        kill(daemon);
        let (first, adopted) = connect(&host.exec_root()).await;
        let mut ids: Vec<_> = adopted.iter().map(|c| (c.slot, c.id.clone())).collect();
        ids.sort();
        let printer = ids[0].1.clone();
        assert_eq!(code(exited(&first, &printer).await.wait_status), 3);
        // The same daemon connects again (its first connection is still open: the keeper lets it in when that ends).
        let listed = first.list().await.expect("list");
        assert!(listed.iter().any(|c| c.id == printer && c.exit.is_some()));
        for (_, id) in &ids[1..] {
            first.signal(id, libc::SIGKILL).await.expect("kill");
            exited(&first, id).await;
        }
        for (_, id) in &ids {
            forget(&first, &host, id).await;
        }
        finish(&first).await;
    });
}

#[test]
fn an_idle_keeper_ends_with_its_daemon() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (daemon, keeper) = start_daemon(&host.dir, "idle");
        kill(daemon);
        wait_for_end(keeper).await;
        let (client, adopted) = connect(&host.exec_root()).await;
        assert!(adopted.is_empty());
        assert_ne!(client.keeper_pid(), keeper);
        finish(&client).await;
    });
}

#[test]
fn the_keeper_is_detached() {
    skip_unless_able!();
    on_shard(|| async {
        let host = Host::new();
        let (client, _) = connect(&host.exec_root()).await;
        let pid = client.keeper_pid();
        let proc =
            |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("proc");
        assert_eq!(proc("mountinfo").lines().count(), 1, "one mount");
        assert_eq!(proc("comm"), "gantry-keeper\n");
        assert!(proc("cmdline").starts_with("gantry-keeper\0"));
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("exe");
        assert!(exe.to_string_lossy().contains("memfd:"), "{exe:?}");
        let session = proc("stat")
            .rsplit(") ")
            .next()
            .and_then(|f| f.split(' ').nth(3).map(str::to_owned));
        assert_eq!(session, Some(pid.to_string()));
        assert!(
            proc("cgroup").lines().all(|l| l.ends_with(":/")),
            "{}",
            proc("cgroup")
        );
        let rss: u64 = proc("status")
            .lines()
            .find_map(|l| {
                l.strip_prefix("RssAnon:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .expect("RssAnon");
        assert!(rss < 2048, "{rss} KiB");
        let dup = client.journal_memfd().expect("journal");
        JournalMap::open(dup.as_fd().try_clone_to_owned().expect("dup")).expect("journal");
        finish(&client).await;
    });
}
