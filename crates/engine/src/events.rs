//! Events: what happened to which object. A ring of the last ones, and bounded subscribers on any
//! shard; a subscriber that falls behind is ended, the others do not notice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::EngineError;
use crate::clock;
use crate::list::label_matches;
use crate::model::FilterMap;

/// Events kept for clients that ask for the past.
pub const EVENTS_KEPT: usize = 256;
/// Events that wait for one client; one more ends its stream.
pub const SUBSCRIBER_QUEUE: usize = 1024;
/// Clients that follow at once.
pub const MAX_SUBSCRIBERS: usize = 4096;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, ...
    pub kind: &'static str,
    /// `start`, `die`, ...
    pub action: String,
    /// Id of the object.
    pub actor_id: String,
    /// Attributes, sorted by name.
    pub attributes: Vec<(String, String)>,
    /// When, nanoseconds since 1970.
    pub time_unix_ns: i64,
}

/// Which events a client wants.
#[derive(Debug, Clone, Default)]
pub struct EventsQuery {
    /// Not before; without it no past events are sent.
    pub since_unix_ns: Option<i64>,
    /// Not after; the stream ends there.
    pub until_unix_ns: Option<i64>,
    /// Filters as the client wrote them.
    pub filters: FilterMap,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The critical sections below can't panic half way through a change.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The ring and its subscribers.
#[derive(Default)]
pub(crate) struct Bus {
    inner: Mutex<BusInner>,
}

#[derive(Default)]
struct BusInner {
    kept: VecDeque<Arc<Event>>,
    subscribers: Vec<Weak<Subscriber>>,
    last_unix_ns: i64,
    dropped_subscribers: u64,
}

#[derive(Default)]
struct Subscriber {
    queue: Mutex<SubscriberQueue>,
}

#[derive(Default)]
struct SubscriberQueue {
    events: VecDeque<Arc<Event>>,
    waker: Option<Waker>,
    ended: bool,
}

impl Subscriber {
    /// Queues the event; false when the client is too slow.
    fn push(&self, event: &Arc<Event>) -> bool {
        let (fits, waker) = {
            let mut queue = locked(&self.queue);
            let fits = queue.events.len() < SUBSCRIBER_QUEUE;
            if fits {
                queue.events.push_back(event.clone());
            } else {
                queue.ended = true;
            }
            (fits, queue.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        fits
    }
}

impl Bus {
    /// Records an event and tells every subscriber. Times never go back.
    pub(crate) fn publish(
        &self,
        kind: &'static str,
        action: String,
        id: String,
        mut attributes: Vec<(String, String)>,
    ) {
        attributes.sort();
        let mut inner = locked(&self.inner);
        inner.last_unix_ns = clock::unix_ns().max(inner.last_unix_ns + 1);
        let event = Arc::new(Event {
            kind,
            action,
            actor_id: id,
            attributes,
            time_unix_ns: inner.last_unix_ns,
        });
        if inner.kept.len() == EVENTS_KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event.clone());
        let mut too_slow = 0;
        inner.subscribers.retain(|weak| match weak.upgrade() {
            Some(subscriber) => {
                let fits = subscriber.push(&event);
                too_slow += u64::from(!fits);
                fits
            }
            None => false,
        });
        inner.dropped_subscribers += too_slow;
    }

    /// Past events that match, then new ones.
    pub(crate) fn subscribe(&self, query: &EventsQuery) -> Result<EventStream, EngineError> {
        let filters = EventFilters {
            map: query.filters.clone(),
        };
        let now = clock::unix_ns();
        let mut inner = locked(&self.inner);
        inner.subscribers.retain(|weak| weak.strong_count() > 0);
        if inner.subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(EngineError::Unavailable(format!(
                "more than {MAX_SUBSCRIBERS} clients follow events"
            )));
        }
        let past = match (query.since_unix_ns, query.until_unix_ns) {
            (None, None) => VecDeque::new(),
            (since, _) => inner
                .kept
                .iter()
                .filter(|e| since.is_none_or(|since| e.time_unix_ns >= since))
                .cloned()
                .collect(),
        };
        let only_past = query.until_unix_ns.is_some_and(|until| until <= now);
        let subscriber = Arc::new(Subscriber {
            queue: Mutex::new(SubscriberQueue {
                events: past,
                waker: None,
                ended: only_past,
            }),
        });
        if !only_past {
            inner.subscribers.push(Arc::downgrade(&subscriber));
        }
        Ok(EventStream {
            subscriber,
            filters,
            until_unix_ns: query.until_unix_ns,
        })
    }

    /// Clients that were ended because they fell behind.
    pub(crate) fn dropped_subscribers(&self) -> u64 {
        locked(&self.inner).dropped_subscribers
    }

    /// Ends every stream (the daemon goes down).
    pub(crate) fn close(&self) {
        for subscriber in locked(&self.inner)
            .subscribers
            .drain(..)
            .filter_map(|weak| weak.upgrade())
        {
            let mut queue = locked(&subscriber.queue);
            queue.ended = true;
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }
}

/// A client's stream of events.
pub struct EventStream {
    subscriber: Arc<Subscriber>,
    filters: EventFilters,
    until_unix_ns: Option<i64>,
}

impl EventStream {
    /// The next event; `None` when the stream has ended (`until` reached, the client too slow, or
    /// the daemon going down). Must be awaited on a shard.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.until_unix_ns {
                None => self.pop().await?,
                Some(until) => {
                    let left = u64::try_from(until.saturating_sub(clock::unix_ns())).unwrap_or(0);
                    // A millisecond more: an event of the last moment is still being queued.
                    let wait = Duration::from_nanos(left) + Duration::from_millis(1);
                    match gantry_rt::timeout(wait, self.pop()).await {
                        Ok(Some(event)) if event.time_unix_ns <= until => event,
                        _ => return None,
                    }
                }
            };
            if self.filters.matches(&event) {
                return Some(event);
            }
        }
    }

    async fn pop(&self) -> Option<Arc<Event>> {
        std::future::poll_fn(|cx| {
            let mut queue = locked(&self.subscriber.queue);
            match queue.events.pop_front() {
                Some(event) => Poll::Ready(Some(event)),
                None if queue.ended => Poll::Ready(None),
                None => {
                    queue.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Checked filters of an events request.
#[derive(Debug, Clone, Default)]
struct EventFilters {
    map: FilterMap,
}

impl EventFilters {
    /// Kinds of objects that a filter may name.
    const KINDS: [&str; 9] = [
        "config",
        "container",
        "daemon",
        "network",
        "node",
        "plugin",
        "secret",
        "service",
        "volume",
    ];

    fn matches(&self, event: &Event) -> bool {
        self.map
            .iter()
            .all(|(key, values)| values.is_empty() || Self::matches_one(key, values, event))
    }

    fn matches_one(key: &str, values: &[String], event: &Event) -> bool {
        let attribute = |name: &str| {
            event
                .attributes
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        match key {
            "type" => values.iter().any(|v| v == event.kind),
            "scope" => values.iter().any(|v| v == "local"),
            // `exec_start: sh` matches `exec_start`.
            "event" => values.iter().any(|v| {
                *v == event.action
                    || event
                        .action
                        .strip_prefix(v.as_str())
                        .is_some_and(|rest| rest.starts_with(": "))
            }),
            "label" => {
                let labels = event.attributes.iter().cloned().collect();
                values.iter().all(|v| label_matches(&labels, v))
            }
            "image" => values.iter().any(|wanted| {
                let own = if event.kind == "image" {
                    Some(event.actor_id.as_str())
                } else {
                    attribute("image")
                };
                [own, attribute("name").filter(|_| event.kind == "image")]
                    .into_iter()
                    .flatten()
                    .any(|have| {
                        have == wanted
                            || have
                                .rsplit_once(':')
                                .is_some_and(|(name, _)| name == wanted)
                    })
            }),
            kind if Self::KINDS.contains(&kind) => {
                event.kind == kind
                    && values.iter().any(|wanted| {
                        event.actor_id.starts_with(wanted.as_str())
                            || attribute("name").is_some_and(|name| name.starts_with(wanted))
                    })
            }
            // As Docker: an unknown filter filters nothing.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event {
            kind: "container",
            action: action.to_owned(),
            actor_id: "abcdef".to_owned(),
            attributes: vec![
                ("app".into(), "x".into()),
                ("image".into(), "busybox:latest".into()),
                ("name".into(), "web".into()),
            ],
            time_unix_ns: 1,
        }
    }

    fn matches(filters: &[(&str, &str)], event: &Event) -> bool {
        let mut map = FilterMap::new();
        for (k, v) in filters {
            map.entry((*k).to_owned())
                .or_default()
                .push((*v).to_owned());
        }
        EventFilters { map }.matches(event)
    }

    #[test]
    fn filters() {
        let e = event("exec_start: sh");
        for (filter, expected) in [
            (&[][..], true),
            (&[("type", "container")], true),
            (&[("type", "image")], false),
            (&[("event", "exec_start")], true),
            (&[("event", "start")], false),
            (&[("event", "die"), ("event", "exec_start")], true),
            (&[("container", "web")], true),
            (&[("container", "abc")], true),
            (&[("container", "we")], true),
            (&[("container", "/web")], false),
            (&[("container", "db")], false),
            (&[("nonsense", "x")], true),
            (&[("image", "busybox")], true),
            (&[("image", "busybox:latest")], true),
            (&[("image", "alpine")], false),
            (&[("label", "app=x")], true),
            (&[("label", "app=y")], false),
            (&[("volume", "v")], false),
        ] {
            assert_eq!(matches(filter, &e), expected, "{filter:?}");
        }
    }

    #[test]
    fn ring_is_bounded_and_times_grow() {
        let bus = Bus::default();
        for n in 0..EVENTS_KEPT + 10 {
            bus.publish("container", format!("a{n}"), "id".to_owned(), Vec::new());
        }
        let inner = locked(&bus.inner);
        assert_eq!(inner.kept.len(), EVENTS_KEPT);
        assert!(
            inner
                .kept
                .iter()
                .zip(inner.kept.iter().skip(1))
                .all(|(a, b)| a.time_unix_ns < b.time_unix_ns)
        );
    }

    #[test]
    fn a_slow_subscriber_is_ended_alone() {
        let bus = Bus::default();
        let slow = bus.subscribe(&EventsQuery::default()).unwrap();
        for n in 0..=SUBSCRIBER_QUEUE {
            bus.publish("container", format!("a{n}"), "id".to_owned(), Vec::new());
        }
        assert!(locked(&slow.subscriber.queue).ended);
        assert_eq!(bus.dropped_subscribers(), 1);
        assert!(locked(&bus.inner).subscribers.is_empty());
    }
}
