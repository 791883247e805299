//! Runs a source's recipe in an unpacked root, on the same engine as everything else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail};
use engine::state::RunDirectory;
use engine::{ENGINES, Streams};
use plan::RootSource;
use spec::event::{Event, Tell};
use spec::exit::Ended;
use spec::image::{Config, Facts};
use spec::network::Mode;
use spec::recipe::{Recipe, Step};
use spec::request::{NetworkRequest, Request};

use crate::emulation::emulation;
use crate::host::Host;

/// How much of a failed step's output an error quotes.
const QUOTED_LINES: usize = 20;

/// Runs every step in the root at `path`, which is changed in place.
/// `architecture` is that of its programs, in OCI's words.
pub(crate) fn bake(
    path: &str,
    architecture: Option<&str>,
    recipe: &Recipe,
    run: &RunDirectory,
    tell: &dyn Tell,
) -> Result<()> {
    for step in &recipe.steps {
        tell.tell(Event::Phase { name: step.title.clone() });
        bake_step(path, architecture, step, run, tell)
            .with_context(|| format!("cannot finish the image: {} failed", step.title))?;
    }
    Ok(())
}

fn bake_step(
    path: &str,
    architecture: Option<&str>,
    step: &Step,
    run: &RunDirectory,
    tell: &dyn Tell,
) -> Result<()> {
    let host = Host::new(run.path())?;
    let mut env = vec![("LANG".to_owned(), "C.UTF-8".to_owned())];
    env.extend(step.env.iter().cloned());
    let request = Request {
        command: step.args.clone(),
        env,
        network: NetworkRequest::of(Mode::None),
        suppress_sync: true,
        ..Request::default()
    };
    let root = RootSource::InPlace(path.to_owned());
    let mut plan =
        plan::plan(&request, &Config::default(), &Facts::default(), &root, &host.launcher)?;
    plan.emulation = emulation(architecture, &plan, &host.launcher)?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let streams =
        Streams { output: Some(writer.try_clone()?), error: Some(writer), ..Streams::default() };
    let machine = engine::by_name(&plan.isolation)
        .unwrap_or(ENGINES[0])
        .create(&plan, run, streams, None)?
        .start()?;
    let mut last = VecDeque::new();
    for line in BufReader::new(File::from(reader)).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read its output")?).into_owned();
        if last.len() == QUOTED_LINES {
            last.pop_front();
        }
        last.push_back(line.clone());
        tell.tell(Event::Output { line });
    }
    match machine.wait(&mut |ended| ended)? {
        Ended::Exited(0) => Ok(()),
        ended => {
            let quoted: Vec<String> = last.into();
            bail!("exit status {}; its last output:\n{}", ended.code(), quoted.join("\n"))
        }
    }
}
