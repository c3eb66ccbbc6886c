//! Tasks, mailboxes, workers, bridges.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_rt::testing::on_shard;
use gantry_rt::{ShardId, bridge, mailbox, reply, sync, workers};

fn on_purpose() {
    panic!("on purpose")
}

const WAKEUPS: usize = 10_000;

/// Each post finds the shard asleep or about to sleep; each must be answered before the next is sent.
#[test]
fn ten_thousand_single_wakeups_lose_none() {
    on_shard(|| async {});
    let (tx, rx) = std::sync::mpsc::channel();
    for n in 0..WAKEUPS {
        let tx = tx.clone();
        mailbox::post(ShardId(1), move || tx.send(n).unwrap()).unwrap();
        assert_eq!(
            rx.recv_timeout(Duration::from_secs(5))
                .expect("a wake-up was lost"),
            n
        );
    }
}

#[test]
fn ten_thousand_calls_between_shards() {
    let sum = on_shard(|| async {
        let mut sum = 0;
        for n in 0..WAKEUPS {
            sum += mailbox::call(ShardId(1), move || async move { n })
                .await
                .unwrap();
        }
        sum
    });
    assert_eq!(sum, WAKEUPS * (WAKEUPS - 1) / 2);
}

#[test]
fn a_reply_from_a_foreign_thread_wakes_its_task() {
    on_shard(|| async {
        for n in 0..1000 {
            let (tx, rx) = reply::channel();
            std::thread::spawn(move || tx.send(n));
            assert_eq!(rx.await, Ok(n));
        }
        let (tx, rx) = reply::channel::<()>();
        drop(tx);
        assert_eq!(rx.await, Err(reply::Dropped));
    });
}

#[test]
fn a_full_mailbox_refuses() {
    on_shard(|| async {});
    let (block_tx, block_rx) = std::sync::mpsc::channel::<()>();
    mailbox::post(ShardId(1), move || block_rx.recv().unwrap()).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let mut queued = 0;
    loop {
        let ran = ran.clone();
        let job = move || {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        if mailbox::post(ShardId(1), job).is_err() {
            break;
        }
        queued += 1;
    }
    assert!(queued + 1 >= mailbox::MAILBOX_CAPACITY, "{queued}");
    block_tx.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while ran.load(Ordering::Relaxed) < queued {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_call_to_a_panicking_future_is_lost_and_the_shard_lives() {
    let answer = on_shard(|| async {
        let lost = mailbox::call(ShardId(1), || async { on_purpose() }).await;
        (lost, mailbox::call(ShardId(1), || async { 7 }).await)
    });
    assert_eq!(answer, (Err(mailbox::CallError::Lost), Ok(7)));
}

#[test]
fn a_self_waking_task_does_not_starve_timers_or_others() {
    on_shard(|| async {
        let stop = Rc::new(Cell::new(false));
        for _ in 0..3 {
            let stop = stop.clone();
            gantry_rt::spawn("spinner", async move {
                std::future::poll_fn(|cx| {
                    if stop.get() {
                        return std::task::Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            });
        }
        let started = Instant::now();
        gantry_rt::sleep(Duration::from_millis(50)).await;
        for _ in 0..100 {
            gantry_rt::yield_now().await;
        }
        mailbox::call(ShardId(1), || async {}).await.unwrap();
        stop.set(true);
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
    });
}

#[test]
fn a_stall_is_named_and_counted() {
    on_shard(|| async {
        gantry_rt::spawn("sleeper", async {
            std::thread::sleep(Duration::from_millis(30))
        });
        gantry_rt::sleep(Duration::from_millis(60)).await;
    });
    let stats = &gantry_rt::stats::snapshot()[0];
    assert!(stats.stalls >= 1);
    assert!(stats.last_stall.is_some());
}

#[test]
fn timeout_drops_its_future() {
    on_shard(|| async {
        let late =
            gantry_rt::timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
        assert_eq!(late, Err(gantry_rt::Elapsed));
        assert_eq!(
            gantry_rt::timeout(Duration::from_secs(5), async { 1 }).await,
            Ok(1)
        );
    });
}

#[test]
fn workers_run_more_jobs_than_they_have_room_for() {
    on_shard(|| async {
        let (tx, mut rx) = sync::mpsc::channel(1);
        const JOBS: usize = 4 * workers::JOBS_PER_SHARD;
        for n in 0..JOBS {
            let tx = tx.clone();
            gantry_rt::spawn("job", async move {
                let got = workers::run(move || n).await.unwrap();
                tx.send(got).await.unwrap();
            });
        }
        drop(tx);
        let mut sum = 0;
        while let Some(n) = rx.recv().await {
            sum += n;
        }
        assert_eq!(sum, JOBS * (JOBS - 1) / 2);
        assert_eq!(
            workers::run(on_purpose).await,
            Err(workers::WorkerGone::Panicked)
        );
    });
    assert_eq!(workers::run_sync(|| 3), Ok(3));
}

#[test]
fn bridge_carries_a_body_to_a_blocking_reader() {
    on_shard(|| async {
        let (tx, mut rx) = bridge::body_to_reader();
        let job = workers::run_long("reader", move || {
            let mut all = Vec::new();
            rx.read_to_end(&mut all).map(|_| all.len())
        })
        .unwrap();
        for _ in 0..1000 {
            tx.send(Bytes::from_static(&[7; 1000])).await.unwrap();
        }
        tx.finish();
        assert_eq!(job.await.unwrap().unwrap(), 1_000_000);

        let (tx, mut rx) = bridge::body_to_reader();
        let job = workers::run_long("reader", move || {
            rx.read_to_end(&mut Vec::new()).map_err(|e| e.kind())
        })
        .unwrap();
        tx.send(Bytes::from_static(b"half")).await.unwrap();
        drop(tx);
        assert_eq!(job.await.unwrap(), Err(std::io::ErrorKind::UnexpectedEof));

        let (tx, rx) = bridge::body_to_reader();
        drop(rx);
        assert_eq!(tx.send(Bytes::from_static(b"x")).await, Err(bridge::Closed));
    });
}

#[test]
fn bridge_carries_a_blocking_writer_to_a_body() {
    on_shard(|| async {
        let (mut tx, mut rx) = bridge::writer_to_body();
        let job = workers::run_long("writer", move || {
            for _ in 0..1000 {
                tx.write_all(&[1; 1000]).unwrap();
            }
            tx.finish()
        })
        .unwrap();
        let mut total = 0;
        while let Some(piece) = rx.next().await {
            total += piece.unwrap().len();
        }
        job.await.unwrap().unwrap();
        assert_eq!(total, 1_000_000);

        let (mut tx, rx) = bridge::writer_to_body();
        drop(rx);
        let job = workers::run_long("writer", move || {
            tx.write_all(&[0; 100_000]).map_err(|e| e.kind())
        })
        .unwrap();
        assert_eq!(job.await.unwrap(), Err(std::io::ErrorKind::BrokenPipe));
    });
}

#[test]
fn notify_and_watch() {
    on_shard(|| async {
        let notify = sync::Notify::new();
        notify.notify_one();
        notify.notified().await;
        let (first, second) = (notify.notified(), notify.notified());
        notify.notify_one();
        drop(first);
        second.await;

        let watch = Rc::new(sync::Watch::new(0));
        let seen = watch.clone();
        gantry_rt::spawn("setter", async move {
            for n in 1..=10 {
                gantry_rt::yield_now().await;
                watch.set(n);
            }
        });
        seen.wait_for(|&n| n == 10).await;
        let (tx, rx) = sync::oneshot::channel();
        drop(rx);
        assert_eq!(tx.send(1), Err(1));
    });
}
