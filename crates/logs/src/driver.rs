//! Which drivers there are.

/// Where the output of a container goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDriver {
    /// Docker's files of JSON records.
    JsonFile,
    /// Segments of multiplexed frames with an index.
    Local,
    /// Nowhere.
    None,
    /// A service; the output is kept in segments of `local`, and a [`crate::Follower`] feeds the service from there.
    Remote(Remote),
}

/// Services that logs are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// systemd's journal.
    Journald,
    /// syslog, over UDP, TCP, TLS or a Unix socket.
    Syslog,
    /// Fluentd's forward protocol.
    Fluentd,
    /// Graylog's format.
    Gelf,
    /// Splunk's HTTP event collector.
    Splunk,
    /// Amazon CloudWatch.
    AwsLogs,
    /// Google Cloud Logging.
    GcpLogs,
}

const NAMES: &[(&str, LogDriver)] = &[
    ("json-file", LogDriver::JsonFile),
    ("local", LogDriver::Local),
    ("none", LogDriver::None),
    ("journald", LogDriver::Remote(Remote::Journald)),
    ("syslog", LogDriver::Remote(Remote::Syslog)),
    ("fluentd", LogDriver::Remote(Remote::Fluentd)),
    ("gelf", LogDriver::Remote(Remote::Gelf)),
    ("splunk", LogDriver::Remote(Remote::Splunk)),
    ("awslogs", LogDriver::Remote(Remote::AwsLogs)),
    ("gcplogs", LogDriver::Remote(Remote::GcpLogs)),
];

impl LogDriver {
    /// The driver with Docker's name `name`.
    pub fn named(name: &str) -> Option<LogDriver> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, d)| *d)
    }

    /// Docker's name.
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(_, d)| *d == self);
        found.map_or("", |(name, _)| name)
    }
}
