//! `commit`, `diff` and `export`: what was written in a machine.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use engine::pause;
use harness::Part;
use serde_json::json;
use spec::image::Config;
use store::difference::Change;

use super::Here;
use super::save::full_name;

/// Make an image of a machine: its own image, and what was written over it
#[derive(Debug, clap::Args)]
pub(super) struct Commit {
    /// Pause the machine meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pause: bool,
    /// Change the image: CMD, ENTRYPOINT, ENV, LABEL, USER, WORKDIR or STOPSIGNAL, as in a Dockerfile
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Of what was written at a snapshot, not now
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Name or id of the machine
    machine: String,
    /// Name of the image, such as mine:1
    name: Option<String>,
}

pub(super) fn commit(args: &Commit, here: &Here) -> Result<u8> {
    let name = args.name.as_deref().map(full_name).transpose()?;
    // What is wrong with the changes is told before anything is done.
    args.change.iter().try_fold(Config::default(), |config, text| changed(config, text))?;
    let run = here.run_directory()?;
    let record = run.find(&args.machine)?;
    let directory = here.store()?.path().join("tmp");
    let pauses = args.pause && !record.paused && args.snapshot.is_none();
    if pauses {
        pause::pause(&run, &record)?;
    }
    let part = args.snapshot.as_deref().map_or(Part::Root, Part::Snapshot);
    let written = harness::take(&run, &record, part, &directory);
    if pauses {
        pause::unpause(&run, &run.find(record.id())?)?;
    }
    let written = written?;
    let (store, _) = here.store_for_change()?;
    let names: Vec<String> = name.into_iter().collect();
    let image = written.commit(&store, &names, |config| {
        args.change.iter().try_fold(config, |config, text| changed(config, text))
    })?;
    println!("sha256:{}", image.id);
    Ok(0)
}

/// One instruction of a Dockerfile.
fn changed(mut config: Config, text: &str) -> Result<Config> {
    let bad = || format!("{text:?} is no change, such as 'CMD [\"sh\"]' or 'ENV A=b'");
    let (word, rest) = text.trim().split_once(char::is_whitespace).with_context(bad)?;
    let rest = rest.trim();
    let pair = || {
        let (name, value) = rest.split_once('=').or_else(|| rest.split_once(' '))?;
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some((name.trim().to_owned(), quoted.unwrap_or(value).to_owned()))
    };
    // A list in JSON, or a line for the shell (Dockerfile reference, "Shell and exec form").
    let command = || match rest.starts_with('[') {
        true => serde_json::from_str::<Vec<String>>(rest).with_context(bad),
        false => Ok(vec!["/bin/sh".to_owned(), "-c".into(), rest.to_owned()]),
    };
    match &word.to_ascii_uppercase()[..] {
        "CMD" => config.cmd = command()?,
        "ENTRYPOINT" => config.entrypoint = command()?,
        "ENV" => {
            let (name, value) = pair().with_context(bad)?;
            config.env.retain(|entry| entry.split('=').next() != Some(&name[..]));
            config.env.push(format!("{name}={value}"));
        }
        "LABEL" => {
            let (name, value) = pair().with_context(bad)?;
            config.labels.insert(name, value);
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => config.working_dir = rest.to_owned(),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        _ => bail!("{}", bad()),
    }
    Ok(config)
}

/// List what was changed in a machine since it was made: C changed, A added, D deleted
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Name or id
    machine: String,
}

pub(super) fn diff(args: &Diff, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    let changes = harness::changes(&run, &run.find(&args.machine)?)?;
    if args.json {
        // As docker's API has it: 0 changed, 1 added, 2 deleted.
        let list: Vec<serde_json::Value> = changes
            .iter()
            .map(|(path, change)| {
                json!({ "Path": String::from_utf8_lossy(path), "Kind": *change as u8 })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    let mut out = std::io::stdout().lock();
    for (path, change) in changes {
        let letter = match change {
            Change::Changed => b"C ",
            Change::Added => b"A ",
            Change::Deleted => b"D ",
        };
        out.write_all(&[letter, &path[..], b"\n"].concat())?;
    }
    Ok(0)
}

/// Write a machine's root file system to a tar archive, without what is mounted in it
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// File to be written [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    machine: String,
}

pub(super) fn export(args: &Export, here: &Here) -> Result<u8> {
    let record = here.run_directory()?.find(&args.machine)?;
    match &args.output {
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            harness::export(&record, &file)?;
        }
        None if sys::pty::is_terminal(rustix::stdio::stdout()) => {
            bail!(
                "standard output is a terminal, and an archive is no text: redirect it, or use -o"
            )
        }
        None => harness::export(&record, &rustix::stdio::stdout())?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        let config = ["CMD [\"a\", \"b c\"]", "env A=1", "ENV A=\"2 3\"", "LABEL x y", "USER app"]
            .iter()
            .try_fold(Config::default(), |config, text| changed(config, text))
            .unwrap();
        assert_eq!(config.cmd, ["a", "b c"]);
        assert_eq!(config.env, ["A=2 3"]);
        assert_eq!(config.labels["x"], "y");
        assert_eq!(config.user, "app");
        assert_eq!(changed(config, "ENTRYPOINT a b").unwrap().entrypoint, ["/bin/sh", "-c", "a b"]);
        for bad in ["CMD", "CMD [1]", "RUN x", "ENV A"] {
            assert!(changed(Config::default(), bad).is_err(), "{bad}");
        }
    }
}
