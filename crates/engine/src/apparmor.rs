//! AppArmor, where the kernel has it: a profile that the client names is applied. There is none of our own.

use std::ffi::CString;
use std::path::Path;
use std::sync::OnceLock;

use crate::EngineError;
use crate::model::HostSpec;

/// The profile that confines nothing.
pub const UNCONFINED: &str = "unconfined";

/// Whether the kernel applies profiles. It does not change while it runs.
pub fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| {
        let parameter = std::fs::read("/sys/module/apparmor/parameters/enabled");
        parameter.is_ok_and(|text| text.starts_with(b"Y"))
            && Path::new("/sys/kernel/security/apparmor").exists()
    })
}

/// The profile of a container that has been started, as dockerd shows it.
pub fn shown_profile(host: &HostSpec) -> &str {
    match (is_enabled(), host.privileged) {
        (false, _) => "",
        (true, true) => UNCONFINED,
        (true, false) => &host.security.apparmor_profile,
    }
}

/// The profile that a container's programs are executed with.
pub(crate) fn profile_of(host: &HostSpec) -> Result<Option<CString>, EngineError> {
    let name = shown_profile(host);
    if name.is_empty() {
        return Ok(None);
    }
    let invalid = |_| EngineError::InvalidParameter(format!("invalid apparmor profile {name:?}"));
    CString::new(name).map(Some).map_err(invalid)
}
