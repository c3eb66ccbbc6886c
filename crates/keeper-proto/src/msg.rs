//! Messages between daemon and keeper.
