//! A failing run, repeated with as few of its faults as it needs to fail.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Maximum number of runs in search of a smaller one.
const RUNS_MAX: usize = 300;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether `run` panics. Nothing is printed.
pub fn fails<T>(run: impl FnOnce() -> T) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let failed = catch_unwind(AssertUnwindSafe(run)).is_err();
    IS_QUIET.set(false);
    failed
}

/// Whether a run is repeated only to see whether it fails.
pub fn is_quiet() -> bool {
    IS_QUIET.get()
}

/// Leaves out ever smaller parts of `count` things if the rest still `fails`. Returns what is left.
pub fn shrink(count: usize, fails: impl Fn(&BTreeSet<usize>) -> bool) -> BTreeSet<usize> {
    let mut left: BTreeSet<usize> = (0..count).collect();
    let mut runs = 0;
    let mut part = count.div_ceil(2);
    while part > 0 {
        let all: Vec<usize> = left.iter().copied().collect();
        let mut is_smaller = false;
        for without in all.chunks(part) {
            let fewer: BTreeSet<usize> =
                left.iter().copied().filter(|one| !without.contains(one)).collect();
            runs += 1;
            if runs > RUNS_MAX {
                return left;
            }
            if fails(&fewer) {
                left = fewer;
                is_smaller = true;
            }
        }
        // Once one is left out, another one may become unnecessary.
        part = if part == 1 && is_smaller { 1 } else { part / 2 };
    }
    left
}

#[test]
fn what_a_failure_needs_is_left() {
    let needs =
        |wanted: &[usize], count| shrink(count, |left| wanted.iter().all(|one| left.contains(one)));
    assert_eq!(needs(&[3, 11], 14), BTreeSet::from([3, 11]));
    assert_eq!(needs(&[], 9), BTreeSet::new());
    assert_eq!(needs(&[0, 1, 2, 3, 4], 5).len(), 5);
    // Two alternatives, either of which is enough.
    let either = shrink(6, |left| left.contains(&2) || left.contains(&5));
    assert_eq!(either.len(), 1);
}
