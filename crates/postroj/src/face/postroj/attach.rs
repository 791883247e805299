//! `attach`: a machine in the background, in front of one again.

use anyhow::Result;
use engine::attach::{Attach, Attached};

use super::Here;

/// Attach to a machine that runs in the background
///
/// Its output from now on is printed, and where it was started with -i, or was booted, input goes to
/// it. Several can be attached at once. The exit status is the machine's; 0 where one detaches,
/// upon which the machine goes on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to a machine without a terminal
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
    /// Keys that detach: letters, or ctrl- and one of a-z @ [ \ ] ^ _, by commas; none where empty
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = keys)]
    detach_keys: Keys,
    /// Name or id
    machine: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys(Vec<u8>);

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    let record = run.find(&args.machine)?;
    let keys = args.detach_keys.0.clone();
    let how = Attach { input: !args.no_stdin, proxy: args.sig_proxy, keys };
    Ok(match engine::attach::attach(&run, &record, &how)? {
        Attached::Ended(code) => code,
        Attached::Detached => {
            eprintln!("\npostroj: detached from {}, which goes on", record.name);
            0
        }
    })
}

/// As docker takes them (docker-attach(1)).
fn keys(text: &str) -> Result<Keys, String> {
    let key = |name: &str| {
        let single = |text: &str| match text.as_bytes() {
            [byte] if byte.is_ascii_graphic() => Some(*byte),
            _ => None,
        };
        let control = |byte: u8| matches!(byte, b'a'..=b'z' | b'@' | b'['..=b'_');
        match name.strip_prefix("ctrl-").filter(|rest| !rest.is_empty()) {
            // ascii(7): control characters are those 64 above without that bit.
            Some(rest) => single(rest).filter(|b| control(*b)).map(|byte| byte & 0x1f),
            None => single(name),
        }
        .ok_or_else(|| format!("{name:?} is no key, such as a or ctrl-p"))
    };
    if text.is_empty() {
        return Ok(Keys(Vec::new()));
    }
    text.split(',').map(key).collect::<Result<_, _>>().map(Keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_docker_spells_them() {
        assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), Keys(vec![0x10, 0x11]));
        assert_eq!(keys("a,ctrl-],ctrl-@").unwrap(), Keys(vec![b'a', 0x1d, 0]));
        assert_eq!(keys("").unwrap(), Keys(vec![]));
        for bad in ["ctrl-1", "ab", "ctrl-pp", "a,,b", "ä"] {
            assert!(keys(bad).is_err(), "{bad}");
        }
    }
}
