//! git2 panics where libgit2 gives what it takes to be impossible: a ref whose name is not UTF-8, a path that is none.
//! git allows both, and anybody who may push can make them. One of them must cost the clone that has it, and no other.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

/// The outcome of `work`; nothing when it panicked. Only for a process of one thread, as workers are: meanwhile no panic
/// is told.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
    set_hook(hook);
    outcome
}
