//! Timers, yielding and racing two futures.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

/// Longest sleep that is asked of the timer wheel at once; longer ones are slept in parts.
const LONGEST_SLEEP: Duration = Duration::from_secs(86_400 * 365);

/// Waits for `d` (millisecond resolution, rounded up).
pub async fn sleep(mut d: Duration) {
    while d > LONGEST_SLEEP {
        monoio::time::sleep(LONGEST_SLEEP).await;
        d -= LONGEST_SLEEP;
    }
    monoio::time::sleep(d).await;
}

/// Lets every other ready task and the ring run once. Never a self-wake: see [`crate::task`].
pub async fn yield_now() {
    struct YieldOnce(bool);
    impl Future for YieldOnce {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.0 {
                return Poll::Ready(());
            }
            self.0 = true;
            crate::task::defer_wake(cx.waker().clone());
            Poll::Pending
        }
    }
    YieldOnce(false).await;
}

/// deadline has elapsed
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Runs `f` for at most `d`; on time-out `f` is dropped.
pub async fn timeout<F: Future>(d: Duration, f: F) -> Result<F::Output, Elapsed> {
    match race(f, sleep(d)).await {
        Either::Left(output) => Ok(output),
        Either::Right(()) => Err(Elapsed),
    }
}

/// Which of two futures ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one.
    Left(A),
    /// The second one.
    Right(B),
}

/// Runs both until one ends; the other is dropped. `a` is polled first, so it wins a tie.
pub async fn race<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        b.as_mut().poll(cx).map(Either::Right)
    })
    .await
}
