//! Runs commands in alternation, so that a machine that is slow for a while is slow for all
//! of them, and compares each with the first, pair by pair.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One command to be measured.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// How the table calls it.
    pub name: String,
    /// The command line.
    pub args: Vec<String>,
    /// Run before each measured run, without being measured.
    pub before: Option<Vec<String>>,
}

impl Candidate {
    /// A command line split at blanks.
    pub fn new(name: &str, line: &str) -> Self {
        let args = line.split_ascii_whitespace().map(str::to_owned).collect();
        Self { name: name.to_owned(), args, before: None }
    }

    /// The same with something that makes each run start alike.
    #[must_use]
    pub fn before(mut self, line: &str) -> Self {
        self.before = Some(line.split_ascii_whitespace().map(str::to_owned).collect());
        self
    }
}

/// What was measured of one command.
#[derive(Debug, Clone)]
pub struct Measured {
    /// As the candidate's.
    pub name: String,
    /// Wall clock of each run, in the order of the runs.
    pub wall: Vec<Duration>,
    /// Processor time of each run, its children included.
    pub cpu: Vec<Duration>,
}

/// Runs all candidates `runs` times in turn, after one run of each that is not counted. A
/// peer that fails then does not work on this host, and is left out with a word.
///
/// # Errors
/// Where a command cannot be started, the first one fails, or another one fails later.
pub fn alternate(candidates: &[Candidate], runs: usize) -> Result<Vec<Measured>> {
    let mut able = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match once(candidate) {
            Ok(_) => able.push(candidate),
            Err(error) if index > 0 => eprintln!("left out: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    let mut measured: Vec<Measured> = able
        .iter()
        .map(|c| Measured { name: c.name.clone(), wall: Vec::new(), cpu: Vec::new() })
        .collect();
    for _ in 0..runs {
        for (candidate, measured) in able.iter().zip(&mut measured) {
            let (wall, cpu) = once(candidate)?;
            measured.wall.push(wall);
            measured.cpu.push(cpu);
        }
    }
    Ok(measured)
}

fn once(candidate: &Candidate) -> Result<(Duration, Duration)> {
    if let Some(before) = &candidate.before {
        succeed(before)?;
    }
    let cpu = children_cpu();
    let start = Instant::now();
    succeed(&candidate.args).with_context(|| candidate.name.clone())?;
    let wall = start.elapsed();
    Ok((wall, children_cpu().saturating_sub(cpu)))
}

fn succeed(args: &[String]) -> Result<()> {
    let (program, rest) = args.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{} failed: {status}", args.join(" "));
    }
    Ok(())
}

/// Processor time of all children so far that were waited for (getrusage(2)).
fn children_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 16 and 17 of proc(5), in ticks: too coarse for one run, right over many.
    let ticks: u64 = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_ascii_whitespace().skip(13).take(2))
        .map_or(0, |fields| fields.filter_map(|f| f.parse::<u64>().ok()).sum());
    Duration::from_millis(ticks * 10)
}

/// The middle value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Prints medians, minima and ratios; a ratio is the median over the pairs of one round, so
/// what disturbed a round disturbs both sides of it.
pub fn report(title: &str, measured: &[Measured]) {
    let millis = |d: &Duration| d.as_secs_f64() * 1e3;
    println!("\n{title} ({} runs each, in alternation; load {})", runs(measured), load());
    println!("{:<34} {:>10} {:>10} {:>10}   first / this", "", "median ms", "min ms", "cpu ms");
    let Some(first) = measured.first() else { return };
    for m in measured {
        let wall: Vec<f64> = m.wall.iter().map(millis).collect();
        let ratios: Vec<f64> = first
            .wall
            .iter()
            .zip(&m.wall)
            .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
            .collect();
        let cpu: f64 = m.cpu.iter().map(millis).sum::<f64>() / m.cpu.len().max(1) as f64;
        let least = wall.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{:<34} {:>10.2} {:>10.2} {:>10.2}   {:.2}",
            m.name,
            median(&wall),
            least,
            cpu,
            median(&ratios)
        );
    }
}

fn runs(measured: &[Measured]) -> usize {
    measured.first().map_or(0, |m| m.wall.len())
}

/// The load average of the last minute.
#[must_use]
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Whether a program is installed.
#[must_use]
pub fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|d| std::path::Path::new(d).join(program).exists())
}

/// Runs a set-up command; its output is shown only where it fails.
///
/// # Errors
/// With that output.
pub fn set_up(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_middle_value() {
        assert_eq!(super::median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(super::median(&[]).is_nan());
    }
}
