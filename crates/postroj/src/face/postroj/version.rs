//! `version`.

use anyhow::Result;

/// Print the version
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let architecture = std::env::consts::ARCH;
    if args.json {
        let json = serde_json::json!({
            "Version": version, "Kernel": kernel, "Architecture": architecture,
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        println!("postroj {version} on Linux {kernel}, {architecture}");
    }
    Ok(0)
}
