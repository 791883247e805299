//! Debian packages: read, and their data unpacked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bootstrap::deb::Deb;
use postroj_fuzz::{Cage, limits};
use store::unpack::{Ids, Options, Style, unpack_with};

fuzz_target!(|bytes: &[u8]| {
    let Ok(package) = Deb::open(bytes) else { return };
    assert!(!package.control.name.contains(['/', '\n']));
    for name in package.control.files.keys() {
        assert!(!name.contains('/') && name != "..", "{name:?}");
    }
    let cage = Cage::new();
    let options = Options { style: Style::Package, ids: Ids::Mine, limits: limits() };
    let _ = package.read_data(|data| unpack_with(data, &cage.open(), &options, &mut |_| {}));
    cage.check();
});
