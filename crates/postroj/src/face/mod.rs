//! The seam behind which every command line that postroj speaks stands.

use std::ffi::{OsStr, OsString};
use std::path::Path;

mod become_root;
mod catatonit;
mod dumb_init;
mod getopt;
mod postroj;
mod tini;

/// A command line: from arguments to an exit code. Only faces print.
pub(crate) trait Face: Sync {
    /// Names of the program by which it is chosen.
    fn names(&self) -> &'static [&'static str];

    /// First arguments by which it is chosen, under any other name.
    fn verbs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Does what the arguments say. The first one is the name, or the verb.
    fn run(&self, args: Vec<OsString>) -> u8;
}

/// Every face there is; the first is the default.
const FACES: &[&dyn Face] = &[
    &postroj::Postroj,
    &tini::Tini::OWN,
    &tini::Tini::ORIGINAL,
    &catatonit::Catatonit,
    &dumb_init::DumbInit,
    &become_root::BecomeRoot,
];

/// What may be printed for a face that has an option for it.
const LICENCE: &str =
    concat!(include_str!("../../../../LICENSE"), "\n", include_str!("../../../../LICENSE-MIT"));

/// Runs the face that the program's name or the first argument names.
pub(crate) fn run(mut args: Vec<OsString>) -> u8 {
    let named = args.first().and_then(|arg| by_name(arg));
    if let Some(face) = named.or_else(|| args.get(1).and_then(|arg| by_verb(arg))) {
        if named.is_none() {
            args.remove(0);
        }
        return face.run(args);
    }
    FACES[0].run(args)
}

/// Names under which this program is another one.
fn names() -> impl Iterator<Item = &'static str> {
    FACES[1..].iter().flat_map(|face| face.names()).copied()
}

fn by_name(program: &OsStr) -> Option<&'static dyn Face> {
    let name = Path::new(program).file_name()?.to_str()?;
    FACES[1..].iter().copied().find(|face| face.names().contains(&name))
}

fn by_verb(argument: &OsStr) -> Option<&'static dyn Face> {
    let verb = argument.to_str()?;
    FACES.iter().copied().find(|face| face.verbs().contains(&verb))
}

/// An error's reason as the C library says it.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}
