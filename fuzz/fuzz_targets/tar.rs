//! Tar archives, unpacked in every style, and as layers over themselves: nothing is written outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::{Cage, limits};
use store::unpack::{Ids, Options, Style, unpack_over, unpack_with};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, archive)) = bytes.split_first() else { return };
    let styles = [Style::Layer, Style::Plain, Style::Package, Style::Overlay];
    let cage = Cage::new();
    let style = styles[usize::from(first % 4)];
    let options = Options { style, ids: Ids::Mine, limits: limits() };
    let _ = unpack_with(archive, &cage.open(), &options, &mut |_| {});
    if style == Style::Overlay {
        let above = Cage::new();
        let _ = unpack_over(archive, &above.open(), &cage.open(), &limits());
        above.check();
    }
    cage.check();
});
