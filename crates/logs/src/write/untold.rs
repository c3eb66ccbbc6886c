//! Losses that a closed log has not said yet: its next writer says them, if it comes first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use crate::loss::Loss;
use crate::segment::LogState;

thread_local! {
    /// Of this shard: a container, and so its log, stays on one.
    static UNTOLD: RefCell<HashMap<PathBuf, Weak<LogState>>> = RefCell::default();
}

/// The log is closed with this loss.
pub(super) fn leave(state: &Rc<LogState>, loss: Option<Loss>) {
    let Some(loss) = loss else { return };
    state.untold.set(Some(loss));
    UNTOLD.with_borrow_mut(|all| {
        all.retain(|_, state| state.strong_count() > 0);
        all.insert(state.path.clone(), Rc::downgrade(state));
    });
}

/// What the writer before of this log has still to say; it will not say it then.
pub(super) fn take_over(path: &Path) -> Option<Loss> {
    let state = UNTOLD.with_borrow_mut(|all| all.remove(path))?.upgrade()?;
    state.superseded.set(true);
    state.untold.take()
}
