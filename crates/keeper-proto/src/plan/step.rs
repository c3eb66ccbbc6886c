//! Where a launch can fail.

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What the launch was doing when it failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step { $(#[doc = $text] $name = $number,)* }

        impl Step {
            /// From its number.
            pub fn from_number(n: u32) -> Option<Step> {
                match n { $($number => Some(Step::$name),)* _ => None }
            }

            /// In words.
            pub fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    Clone = 1, "clone the process";
    CgroupAttach = 2, "join the cgroup";
    CgroupNamespace = 3, "make a cgroup namespace";
    NetworkJoin = 4, "join the network namespace";
    Loopback = 5, "bring up the loopback interface";
    Session = 6, "make a session";
    Terminal = 7, "take the controlling terminal";
    Stdio = 8, "set up the standard streams";
    Rootfs = 9, "attach the root file system";
    Pivot = 10, "change the root";
    OldRoot = 11, "detach the old root";
    MountTarget = 12, "find the mount target";
    Mount = 13, "mount";
    Hostname = 14, "set the host name";
    CloseFiles = 15, "close inherited files";
    Sysctl = 16, "write a kernel parameter";
    OomScore = 17, "write oom_score_adj";
    Mask = 18, "mask a path";
    ReadOnly = 19, "make a path read-only";
    Rlimit = 20, "set a resource limit";
    Keyring = 21, "make a session keyring";
    Bounding = 22, "drop capabilities from the bounding set";
    Identity = 23, "change user and groups";
    Capabilities = 24, "set capabilities";
    NoNewPrivs = 25, "set no_new_privs";
    Seccomp = 26, "load the seccomp filter";
    Cwd = 27, "change to the working directory";
    CwdOutside = 28, "change to the working directory: it is outside of the container";
    Signals = 29, "reset signals";
    LookupNotFound = 30, "find the program in PATH";
    LookupStat = 31, "stat the program";
    LookupDirectory = 32, "run a directory";
    LookupPermission = 33, "run the program";
    Slots = 34, "find a free slot in the keeper";
    Plan = 35, "read the launch plan";
    Journal = 36, "reset the journal slot";
    Status = 37, "map the status word";
    Join = 38, "join the container's namespaces";
    Enter = 39, "make a process in the container";
    PidJoin = 40, "join the pid namespace";
    IpcJoin = 41, "join the ipc namespace";
    UserNamespace = 42, "enter the user namespace";
    UserMap = 43, "write the id maps of the user namespace";
    AppArmor = 44, "apply the apparmor profile";
    HookRoot = 45, "enter the host's mount namespace for the hooks";
    HookGate = 46, "wait for the hooks of the host's namespaces";
    HookCreate = 47, "run a createContainer hook";
    RuntimeRoot = 60, "enter the host's mount namespace for the runtime";
    RuntimeMount = 61, "attach a mount for the runtime";
    RuntimeExec = 62, "execute the runtime";
    RuntimePid = 63, "take over the process that the runtime made";
    RuntimeConsole = 64, "take over the terminal that the runtime made";
}
