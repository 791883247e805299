//! Arguments of `bwrap`, some of which come from whoever starts it: they are read or refused, and
//! what is accepted has a command, and no more steps than arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bwrap;

fuzz_target!(|bytes: &[u8]| {
    let Some((sandbox, warnings)) = bwrap(bytes) else { return };
    assert!(!sandbox.command.is_empty());
    assert!(!sandbox.namespaces.user || sandbox.userns.is_none(), "two user namespaces");
    // Arguments that come from a descriptor are these again, once for each.
    let words = bytes.split(|&b| b == 0).count();
    let all = words * (words + 1);
    assert!(sandbox.operations.len() + sandbox.environment.len() + warnings.len() <= all);
    assert!(sandbox.filters.iter().all(|filter| filter.len() % 8 == 0));
});
