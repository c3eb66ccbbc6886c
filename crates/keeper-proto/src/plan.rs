//! The launch plan.
