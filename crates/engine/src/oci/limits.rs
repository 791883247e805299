//! `linux.resources` as files of control groups: the specification has the words of the first version,
//! which are translated for the second (Linux, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).

use std::fs;

use anyhow::{Context, Result, bail};
use spec::runtime::{BlockIo, Cpu, DeviceRule, Memory, Resources, ThrottleDevice};

use super::cgroups::{Group, Groups};

/// What is written, and where.
struct Writer<'a> {
    groups: &'a Groups,
}

impl Writer<'_> {
    fn group(&self, controller: &str) -> Result<&Group> {
        self.groups.with(controller).with_context(|| {
            format!("cannot limit {controller}: the container has no group with that controller")
        })
    }
}

pub(super) fn set(
    groups: &Groups,
    resources: &Resources,
    rootless: bool,
    warn: &mut dyn FnMut(String),
) -> Result<()> {
    let writer = Writer { groups };
    if let Some(memory) = &resources.memory {
        writer.memory(memory, warn)?;
    }
    if let Some(cpu) = &resources.cpu {
        writer.cpu(cpu)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        // 0 is what older callers say for unlimited.
        match (limit > 0, writer.group("pids")) {
            (true, group) => write(group?, "pids.max", limit)?,
            (false, Ok(group)) => write(group, "pids.max", "max")?,
            (false, Err(_)) => {}
        }
    }
    if let Some(block) = &resources.block_io {
        writer.block(block)?;
    }
    for limit in &resources.hugepage_limits {
        let group = writer.group("hugetlb")?;
        let file = match group.is_unified() {
            true => format!("hugetlb.{}.max", limit.page_size),
            false => format!("hugetlb.{}.limit_in_bytes", limit.page_size),
        };
        write(group, &file, limit.limit)?;
    }
    if let Some(network) = &resources.network {
        if let Some(class) = network.class_id.filter(|class| *class != 0) {
            write(writer.group("net_cls")?, "net_cls.classid", class)?;
        }
        for priority in &network.priorities {
            let text = format!("{} {}", priority.name, priority.priority);
            write(writer.group("net_prio")?, "net_prio.ifpriomap", text)?;
        }
    }
    for (device, limit) in &resources.rdma {
        let number = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
        let (handles, objects) = (number(limit.hca_handles), number(limit.hca_objects));
        let text = format!("{device} hca_handle={handles} hca_object={objects}");
        write(writer.group("rdma")?, "rdma.max", text)?;
    }
    writer.unified(resources)?;
    writer.devices(&resources.devices, rootless)
}

impl Writer<'_> {
    fn memory(&self, memory: &Memory, warn: &mut dyn FnMut(String)) -> Result<()> {
        if memory == &Memory::default() {
            return Ok(());
        }
        if memory.kernel.is_some_and(|bytes| bytes > 0) {
            warn("linux.resources.memory.kernel is not supported by Linux any more".into());
        }
        let limited = [memory.limit, memory.reservation, memory.swap];
        if limited.iter().flatten().all(|bytes| *bytes <= 0)
            && memory.swappiness.is_none()
            && memory.disable_oom_killer != Some(true)
            && self.group("memory").is_err()
        {
            return Ok(());
        }
        let group = self.group("memory")?;
        if group.is_unified() {
            unified_memory(group, memory)
        } else {
            legacy_memory(group, memory)
        }
    }

    fn cpu(&self, cpu: &Cpu) -> Result<()> {
        let sets = [&cpu.cpus, &cpu.mems].into_iter().flatten().any(|text| !text.is_empty());
        if sets {
            let group = self.group("cpuset")?;
            for (file, text) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
                if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                    write(group, file, text)?;
                }
            }
        }
        let time = Cpu {
            shares: given(cpu.shares),
            quota: given(cpu.quota),
            period: given(cpu.period),
            realtime_runtime: given(cpu.realtime_runtime),
            realtime_period: given(cpu.realtime_period),
            cpus: None,
            mems: None,
            ..*cpu
        };
        if time == Cpu::default() {
            return Ok(());
        }
        let group = self.group("cpu")?;
        if group.is_unified() { unified_cpu(group, &time) } else { legacy_cpu(group, &time) }
    }

    fn block(&self, block: &BlockIo) -> Result<()> {
        let block = BlockIo {
            weight: given(block.weight),
            leaf_weight: given(block.leaf_weight),
            ..block.clone()
        };
        if block == BlockIo::default() {
            return Ok(());
        }
        match self.groups.with("blkio") {
            Some(group) => legacy_block(group, &block),
            None => unified_block(self.group("io")?, &block),
        }
    }

    fn unified(&self, resources: &Resources) -> Result<()> {
        for (file, value) in &resources.unified {
            if file.contains('/') || !file.contains('.') {
                bail!("linux.resources.unified has {file:?}, which is no file of a control group");
            }
            let controller = file.split('.').next().unwrap_or_default();
            let group = match controller {
                "cgroup" => self.groups.0.iter().find(|group| group.is_unified()),
                _ => self.groups.with(controller).filter(|group| group.is_unified()),
            };
            let group = group.with_context(|| {
                format!(
                    "invalid configuration: cannot set {file}: the container has no group of cgroup v2 with \
                     {controller}"
                )
            })?;
            for line in value.lines() {
                write(group, file, line)?;
            }
        }
        Ok(())
    }

    /// Who is not root of the host can make no device, and may not limit what it cannot have.
    fn devices(&self, rules: &[DeviceRule], rootless: bool) -> Result<()> {
        if rules.is_empty() || rootless {
            return Ok(());
        }
        let all = rules.iter().map(text).chain(ALWAYS.map(|text| Ok((true, text.to_owned()))));
        let all = all.collect::<Result<Vec<_>>>()?;
        let Some(group) = self.groups.with("devices") else {
            let unified = self.groups.0.iter().find(|group| group.is_unified());
            let group = unified.context("this host has no control groups to limit devices with")?;
            return super::devices::attach(&group.path, &all);
        };
        // A file is opened once for all rules in a row that are its own.
        for run in all.chunk_by(|(a, _), (b, _)| a == b) {
            let file = if run[0].0 { "devices.allow" } else { "devices.deny" };
            write_each(group, file, run.iter().map(|(_, text)| text.as_str()))?;
        }
        Ok(())
    }
}

/// 0 is no wish: docker writes each of its options down, those that were not given as well, and runc passes over those.
fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// What every container may, whatever its rules say: it would not have them else (runtime-spec 1.2,
/// `config-linux.md`, "Default Devices"; runc, `AllowedDevices`).
const ALWAYS: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

fn text(rule: &DeviceRule) -> Result<(bool, String)> {
    let kind = rule.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("a");
    if !matches!(kind, "a" | "b" | "c") {
        bail!("a rule for devices is of the type {kind:?}, not a, b or c");
    }
    let access = rule.access.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    if !access.chars().all(|c| "rwm".contains(c)) {
        bail!("a rule for devices has the access {access:?}, not of r, w and m");
    }
    let number = |n: Option<i64>| match n {
        Some(n) if n >= 0 => n.to_string(),
        _ => "*".to_owned(),
    };
    Ok((rule.allow, format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))))
}

fn legacy_memory(group: &Group, memory: &Memory) -> Result<()> {
    if memory.use_hierarchy == Some(true) {
        write(group, "memory.use_hierarchy", 1)?;
    }
    let (limit, swap) = (memory.limit.filter(|n| *n != 0), memory.swap.filter(|n| *n != 0));
    // What is unlimited includes the swap.
    let swap = if limit == Some(-1) && swap.is_none() { Some(-1) } else { swap };
    let (limit, swap) = (
        limit.map(|n| ("memory.limit_in_bytes", n)),
        swap.map(|n| ("memory.memsw.limit_in_bytes", n)),
    );
    // The one may never be above the other, so the order depends on what there is.
    let now = fs::read_to_string(group.path.join("memory.memsw.limit_in_bytes"))
        .ok()
        .and_then(|text| text.trim().parse::<i64>().ok());
    let raises = swap.is_some_and(|(_, n)| n == -1 || now.is_some_and(|now| n > now));
    let order = if raises { [swap, limit] } else { [limit, swap] };
    for (file, bytes) in order.into_iter().flatten() {
        write(group, file, bytes)?;
    }
    if let Some(bytes) = memory.reservation.filter(|n| *n != 0) {
        write(group, "memory.soft_limit_in_bytes", bytes)?;
    }
    if let Some(bytes) = memory.kernel_tcp.filter(|n| *n != 0) {
        write(group, "memory.kmem.tcp.limit_in_bytes", bytes)?;
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            bail!("memory.swappiness {swappiness} is not between 0 and 100");
        }
        write(group, "memory.swappiness", swappiness)?;
    }
    if memory.disable_oom_killer == Some(true) {
        write(group, "memory.oom_control", 1)?;
    }
    Ok(())
}

fn unified_memory(group: &Group, memory: &Memory) -> Result<()> {
    let bytes = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
    if let Some(swap) = memory.swap.filter(|n| *n != 0) {
        let text = match (swap, memory.limit) {
            (-1, _) => "max".to_owned(),
            (swap, Some(limit)) if limit > 0 && swap >= limit => (swap - limit).to_string(),
            _ => bail!("memory.swap {swap} is below memory.limit, which it includes"),
        };
        write(group, "memory.swap.max", text)?;
    }
    if let Some(limit) = memory.limit.filter(|n| *n != 0) {
        write(group, "memory.max", bytes(limit))?;
    }
    if let Some(reservation) = memory.reservation.filter(|n| *n != 0) {
        write(group, "memory.low", bytes(reservation))?;
    }
    Ok(())
}

fn legacy_cpu(group: &Group, cpu: &Cpu) -> Result<()> {
    if let Some(shares) = cpu.shares {
        write(group, "cpu.shares", shares)?;
    }
    if let Some(period) = cpu.period {
        // A quota that is set already may allow no such period before it is changed itself.
        let written = write(group, "cpu.cfs_period_us", period);
        match cpu.quota.filter(|_| written.is_err()) {
            Some(quota) => {
                write(group, "cpu.cfs_quota_us", quota)?;
                write(group, "cpu.cfs_period_us", period)?;
            }
            None => written?,
        }
    }
    if let Some(quota) = cpu.quota {
        write(group, "cpu.cfs_quota_us", quota)?;
    }
    if let Some(burst) = cpu.burst {
        write(group, "cpu.cfs_burst_us", burst)?;
    }
    if let Some(period) = cpu.realtime_period {
        write(group, "cpu.rt_period_us", period)?;
    }
    if let Some(runtime) = cpu.realtime_runtime {
        write(group, "cpu.rt_runtime_us", runtime)?;
    }
    cpu.idle.map_or(Ok(()), |idle| write(group, "cpu.idle", idle))
}

fn unified_cpu(group: &Group, cpu: &Cpu) -> Result<()> {
    if cpu.realtime_period.is_some() || cpu.realtime_runtime.is_some() {
        bail!("cgroup v2 has no limits for real-time scheduling");
    }
    if let Some(idle) = cpu.idle {
        write(group, "cpu.idle", idle)?;
    }
    if let Some(shares) = cpu.shares
        && cpu.idle != Some(1)
    {
        // 2 to 262144 become 1 to 10000, as all runtimes have it (crun(1), "CPU controller").
        write(group, "cpu.weight", 1 + (shares.max(2) - 2) * 9999 / 262_142)?;
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = match cpu.quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = cpu.period.unwrap_or(100_000);
        write(group, "cpu.max", format!("{quota} {period}"))?;
    }
    cpu.burst.map_or(Ok(()), |burst| write(group, "cpu.max.burst", burst))
}

fn throttled(block: &BlockIo) -> [(&'static str, &'static str, &[ThrottleDevice]); 4] {
    [
        ("blkio.throttle.read_bps_device", "rbps", &block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", "wbps", &block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", "riops", &block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", "wiops", &block.throttle_write_iops_device),
    ]
}

fn legacy_block(group: &Group, block: &BlockIo) -> Result<()> {
    // By the scheduler that the host has: one or the other.
    let weight_file = |name: &str| {
        let bfq = format!("blkio.bfq.{name}");
        if group.path.join(&bfq).exists() { bfq } else { format!("blkio.{name}") }
    };
    if let Some(weight) = block.weight {
        write(group, &weight_file("weight"), weight)?;
    }
    if let Some(weight) = block.leaf_weight {
        write(group, "blkio.leaf_weight", weight)?;
    }
    for device in &block.weight_device {
        let text = |weight| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = device.weight {
            write(group, &weight_file("weight_device"), text(weight))?;
        }
        if let Some(weight) = device.leaf_weight {
            write(group, "blkio.leaf_weight_device", text(weight))?;
        }
    }
    for (file, _, devices) in throttled(block) {
        for device in devices {
            write(group, file, format!("{}:{} {}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

fn unified_block(group: &Group, block: &BlockIo) -> Result<()> {
    if let Some(weight) = block.weight {
        if group.path.join("io.bfq.weight").exists() {
            write(group, "io.bfq.weight", weight)?;
        } else {
            // 10 to 1000 become 1 to 10000.
            let weight = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
            write(group, "io.weight", weight)?;
        }
    }
    if block.leaf_weight.is_some() {
        bail!("cgroup v2 has no blockIO.leafWeight");
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight {
            let text = format!("{}:{} {weight}", device.major, device.minor);
            write(group, "io.bfq.weight", text)?;
        }
    }
    for (_, key, devices) in throttled(block) {
        for device in devices {
            let text = format!("{}:{} {key}={}", device.major, device.minor, device.rate);
            write(group, "io.max", text)?;
        }
    }
    Ok(())
}

fn write(group: &Group, file: &str, value: impl ToString) -> Result<()> {
    write_each(group, file, [value.to_string().as_str()])
}

fn write_each<'a>(
    group: &Group,
    file: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let path = group.path.join(file);
    let mut opened = None;
    for value in values {
        let what = || format!("cannot write {value:?} to {}", path.display());
        let file = match &mut opened {
            Some(file) => file,
            // Never made where the kernel has none: it is a directory of its own on other file systems.
            None => {
                opened.insert(fs::OpenOptions::new().write(true).open(&path).with_context(what)?)
            }
        };
        std::io::Write::write_all(file, value.as_bytes()).with_context(what)?;
    }
    Ok(())
}
