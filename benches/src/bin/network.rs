//! `cargo run --release -p benches --bin network [ROUNDS]`: throughput and connections of machines to
//! this host, side by side with the host's own loopback device and a bridge made by hand (which masquerades, as one has
//! to that leads out: that every packet is known by its connection is what it costs), and what a network adds to `run`. As
//! root, who also runs it as nobody; needs iperf3, iproute2, nftables, passt and slirp4netns.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::{Candidate, alternate, load, median, report, set_up};

/// Of the servers on this host.
const THROUGHPUT: &str = "5299";
const CONNECTIONS: u16 = 5298;
/// How long each measurement takes, in seconds.
const SECONDS: u64 = 2;
/// The bridge made by hand, and the network behind it.
const BY_HAND: &str = "pjbench";
const HAND: &str = "10.213.0";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address] = &args[..]
        && word == "probe"
    {
        return probe(address);
    }
    ensure!(rustix::process::geteuid().is_root(), "networks are measured as root");
    let rounds = args.first().map_or(Ok(5), |text| text.parse()).context("ROUNDS is a number")?;
    let bench = Bench::new()?;
    println!("load {}", load());
    for (title, reverse) in [("machine to host", false), ("host to machine", true)] {
        bench.table(&format!("{title}, Gbit/s"), rounds, |way| bench.throughput(way, reverse))?;
    }
    bench.table("connections a second", rounds, |way| bench.connections(way))?;
    let run = |network: &str| format!("{} run --network={network} host /bin/true", bench.postroj);
    let candidates = ["none", "bridge", "user,accel=on", "user,accel=off"]
        .map(|network| Candidate::new(network, &run(network)));
    report("what a network adds to `run`", &alternate(&candidates, rounds.max(5) * 8)?);
    Ok(())
}

/// Connects, exchanges a byte, over and over; prints how often in a second.
fn probe(address: &str) -> Result<()> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let mut stream = TcpStream::connect((address, CONNECTIONS))?;
        // Ended by a reset: thousands a second that linger (TIME_WAIT) would have the kernel search
        // for a free port most of the time.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        count += 1;
    }
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Where a client runs.
#[derive(Clone, Copy)]
enum Way {
    Loopback,
    ByHand,
    Ours,
    Accelerated,
    OfUser,
    Carried,
    Slirp,
}

/// Names in the tables.
const WAYS: [(&str, Way); 7] = [
    ("loopback", Way::Loopback),
    ("veth + bridge by hand", Way::ByHand),
    ("postroj, bridge", Way::Ours),
    ("postroj, user,accel=on", Way::Accelerated),
    ("the same, as a user", Way::OfUser),
    ("postroj, pasta", Way::Carried),
    ("postroj, slirp4netns", Way::Slirp),
];

struct Bench {
    postroj: String,
    own: PathBuf,
    /// A directory of nobody's, with copies of both, and slirp4netns alone.
    place: PathBuf,
    of_user: String,
    /// That directory in the user's machine.
    volume: String,
    /// An address of this host's that machines reach.
    address: String,
    /// The process that holds the namespace made by hand: `ip netns exec` mounts /sys anew besides,
    /// which not every host lets it.
    by_hand: String,
    servers: Vec<Child>,
}

impl Bench {
    fn new() -> Result<Self> {
        let own = std::env::current_exe()?;
        let postroj = own.with_file_name("postroj");
        ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
        let listener = TcpListener::bind(("0.0.0.0", CONNECTIONS))?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // Until the client resets it.
                let _ = stream.read(&mut [0]).and_then(|_| stream.write_all(b"x"));
                let _ = stream.read(&mut [0]);
            }
        });
        let mut iperf = Command::new("iperf3");
        iperf.args(["-s", "-p", THROUGHPUT]).stdout(Stdio::null());
        let mut servers = vec![iperf.spawn().context("cannot start iperf3: apt install iperf3")?];
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "echo; exec sleep infinity"]).stdout(Stdio::piped());
        let mut holder = holder.spawn().context("cannot start unshare")?;
        if let Some(told) = &mut holder.stdout {
            told.read_exact(&mut [0]).context("cannot make a network namespace")?;
        }
        let by_hand = holder.id().to_string();
        servers.push(holder);
        let place = std::env::temp_dir().join(format!("{BY_HAND}-{}", std::process::id()));
        std::fs::create_dir(&place)?;
        let copy = |from: &Path, name: &str| -> Result<String> {
            std::fs::copy(from, place.join(name))?;
            Ok(place.join(name).to_string_lossy().into_owned())
        };
        let of_user = copy(&postroj, "program")?;
        copy(&own, "probe")?;
        let volume = format!("{}:/mnt:ro", place.display());
        std::os::unix::fs::symlink("/usr/bin/slirp4netns", place.join("slirp4netns"))?;
        set_up("chown", &["-R", "nobody:", &place.to_string_lossy()])?;
        let postroj = postroj.to_string_lossy().into_owned();
        let address = format!("{HAND}.1");
        let inside = format!("nsenter -t {by_hand} -n ip");
        let peer = by_hand.clone();
        let bench = Self { postroj, own, place, of_user, volume, address, by_hand, servers };
        let script = format!(
            "ip link add {BY_HAND} type bridge && ip addr add {HAND}.1/24 dev {BY_HAND} && \
             ip link set {BY_HAND} up && \
             ip link add {BY_HAND}0 master {BY_HAND} type veth peer name eth0 netns {peer} && \
             ip link set {BY_HAND}0 up && {inside} addr add {HAND}.2/24 dev eth0 && \
             {inside} link set eth0 up && nft add table inet {BY_HAND} && \
             nft 'add chain inet {BY_HAND} source {{ type nat hook postrouting priority srcnat; }}' && \
             nft add rule inet {BY_HAND} source ip saddr {HAND}.0/24 oifname != {BY_HAND} masquerade"
        );
        set_up("sh", &["-c", &script])?;
        Ok(bench)
    }

    fn command(&self, way: Way, program: &str, args: &[&str]) -> Command {
        let mut words: Vec<&str> = match way {
            Way::Loopback => Vec::new(),
            Way::ByHand => vec!["nsenter", "-t", &self.by_hand, "-n"],
            Way::Ours => vec![&self.postroj, "run", "--network=bridge", "host"],
            Way::Accelerated => {
                vec![&self.postroj, "run", "--network=user,accel=on,allow=10.213.0.0/24", "host"]
            }
            Way::OfUser => vec![
                "setpriv",
                "--reuid=nobody",
                "--regid=nogroup",
                "--clear-groups",
                &self.of_user,
                "run",
                "--userns=single",
                "--network=user,accel=on,allow=10.213.0.0/24",
                "-v",
                &self.volume,
                "host",
            ],
            Way::Carried | Way::Slirp => {
                vec![&self.postroj, "run", "--network=user,accel=off", "host"]
            }
        };
        let program = match way {
            // What the user may not reach is copied as well.
            Way::OfUser if program == self.own.to_string_lossy() => "/mnt/probe",
            _ => program,
        };
        words.push(program);
        words.extend(args);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        match way {
            Way::Slirp => drop(command.env("PATH", &self.place)),
            Way::OfUser => {
                command.env("HOME", &self.place).env("XDG_RUNTIME_DIR", &self.place);
            }
            _ => {}
        }
        command
    }

    fn address(&self, way: Way) -> &str {
        if matches!(way, Way::Loopback) { "127.0.0.1" } else { &self.address }
    }

    fn throughput(&self, way: Way, reverse: bool) -> Result<f64> {
        let time = SECONDS.to_string();
        let mut args = vec!["-c", self.address(way), "-p", THROUGHPUT, "-t", &time, "-J"];
        args.extend(reverse.then_some("-R"));
        let output = self.command(way, "iperf3", &args).output()?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.map(|bits| bits / 1e9).with_context(|| format!("iperf3 failed: {}", told["error"]))
    }

    fn connections(&self, way: Way) -> Result<f64> {
        let own = self.own.to_string_lossy().into_owned();
        let output = self.command(way, &own, &["probe", self.address(way)]).output()?;
        if !output.status.success() {
            bail!("the probe failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }

    fn table(
        &self,
        title: &str,
        rounds: usize,
        measure: impl Fn(Way) -> Result<f64>,
    ) -> Result<()> {
        let mut all: Vec<(&str, Way, Vec<f64>)> =
            WAYS.into_iter().map(|(name, way)| (name, way, Vec::new())).collect();
        for round in 0..=rounds {
            // The first round is not counted, and shows what works here.
            all.retain_mut(|(name, way, values)| match measure(*way) {
                Ok(value) => {
                    values.extend((round > 0).then_some(value));
                    true
                }
                Err(error) => {
                    eprintln!("left out: {name}: {error:#}");
                    false
                }
            });
        }
        println!("\n{title} (median of {rounds}, in turn; ratio to loopback):");
        let loopback = all.first().context("nothing could be measured")?;
        let host = median(&loopback.2);
        for (name, _, values) in &all {
            println!("  {name:<24} {:>10.2} {:>6.2}", median(values), median(values) / host);
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let script = format!("ip link del {BY_HAND}; nft delete table inet {BY_HAND}");
        let _ = set_up("sh", &["-c", &script]);
        let _ = std::fs::remove_dir_all(&self.place);
    }
}
