//! The seam behind which every command line that postroj speaks stands.

use std::ffi::OsString;
use std::path::Path;

mod postroj;

/// A command line: from arguments to an exit code. Only faces print.
pub(crate) trait Face: Sync {
    /// Names of the program by which it is chosen.
    fn names(&self) -> &'static [&'static str];

    /// Does what the arguments say.
    fn run(&self, args: Vec<OsString>) -> u8;
}

/// Every face there is; the first is the default.
const FACES: &[&dyn Face] = &[&postroj::Postroj];

/// The face that `argv[0]` names.
pub(crate) fn find(args: &[OsString]) -> &'static dyn Face {
    let name = args.first().map(Path::new).and_then(Path::file_name).and_then(|n| n.to_str());
    let named = FACES.iter().find(|face| name.is_some_and(|n| face.names().contains(&n)));
    *named.unwrap_or(&FACES[0])
}
