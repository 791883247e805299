//! Tar archives, unpacked in every style: nothing is written outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::{Cage, limits};
use store::unpack::{Ids, Options, Style, unpack_with};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, archive)) = bytes.split_first() else { return };
    let style = [Style::Layer, Style::Plain, Style::Package][usize::from(first % 3)];
    let cage = Cage::new();
    let options = Options { style, ids: Ids::Mine, limits: limits() };
    let _ = unpack_with(archive, &cage.open(), &options, &mut |_| {});
    cage.check();
});
