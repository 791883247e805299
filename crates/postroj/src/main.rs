//! postroj: takes an operating system image from any source and runs it. The face is
//! chosen by the name that the program is called by, or its first argument.

mod face;

fn main() -> std::process::ExitCode {
    if engine::vm::guest::is_here() {
        engine::vm::guest::run(&harness::ABILITIES);
    }
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    std::process::ExitCode::from(face::run(args))
}
