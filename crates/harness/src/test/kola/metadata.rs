//! What is said of a test: in `kola.json`, or in the test itself behind `# kola: ` (JSON) or `## kola:` (YAML).

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Isolation, yaml};

/// Of one test. Lists are strings with spaces between, as kola has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Metadata {
    architectures: String,
    distros: String,
    platforms: String,
    tags: String,
    pub(super) required_tag: Option<String>,
    pub(super) description: String,
    pub(super) timeout_min: Option<u64>,
    pub(super) isolation: Option<Isolation>,
    min_memory: Option<u64>,
    additional_disks: Vec<String>,
    primary_disk: Value,
    additional_nics: Option<u64>,
    append_kernel_args: Option<String>,
    append_firstboot_kernel_args: Option<String>,
    inject_container: bool,
    numa_nodes: bool,
    // Each test has a machine of its own: nothing conflicts, and nothing has to be enforced.
    #[serde(rename = "exclusive")]
    _exclusive: Option<bool>,
    #[serde(rename = "conflicts")]
    _conflicts: Vec<String>,
    // Where files are kept in a container is as large as the host's disk or memory.
    #[serde(rename = "minDisk")]
    _min_disk: Option<u64>,
    // Of clouds.
    #[serde(rename = "instanceType")]
    _instance_type: Value,
    #[serde(rename = "noInstanceCreds")]
    _no_instance_creds: bool,
    #[serde(rename = "allowConfigWarnings")]
    _allow_config_warnings: bool,
}

/// The platform of kola's in whose place a machine of ours is: the one that is local.
pub(super) const PLATFORM: &str = "qemu";

impl Metadata {
    pub(super) fn of_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        // serde_json's errors end with the line and the column.
        serde_json::from_str(&text).with_context(|| format!("{} is wrong", path.display()))
    }

    /// What stands in a script; `None` where nothing does, or it is no script.
    pub(super) fn inline(path: &Path) -> Result<Option<Self>> {
        let what = || format!("cannot read {}", path.display());
        let mut file = std::fs::File::open(path).with_context(what)?;
        let mut bytes = Vec::new();
        file.by_ref().take(2).read_to_end(&mut bytes).with_context(what)?;
        if bytes != b"#!" {
            return Ok(None);
        }
        file.take(MAX).read_to_end(&mut bytes).with_context(what)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let wrong =
                || format!("{}:{}: what is said of the test is wrong", path.display(), at + 1);
            if let Some(json) = line.strip_prefix("# kola:") {
                return serde_json::from_str(json).with_context(wrong).map(Some);
            }
            if line.trim_end() == "## kola:" {
                let rest = lines[at + 1..].iter().map_while(|line| line.strip_prefix("##"));
                let value =
                    yaml::parse(&rest.collect::<Vec<_>>().join("\n")).with_context(wrong)?;
                let value = if value.is_null() { Value::Object(Default::default()) } else { value };
                return serde_json::from_value(value).with_context(wrong).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn tags(&self) -> Vec<String> {
        self.tags.split_whitespace().map(str::to_owned).collect()
    }

    pub(super) fn distros(&self) -> Vec<String> {
        self.distros.split_whitespace().map(str::to_owned).collect()
    }

    /// Why it cannot be run here on any image.
    pub(super) fn obstacle(&self) -> Option<String> {
        if !includes(&self.platforms, PLATFORM) {
            return Some(format!("it is for the platforms {}", self.platforms));
        }
        let (rust, go) = match std::env::consts::ARCH {
            "aarch64" => ("aarch64", "arm64"),
            "powerpc64" => ("ppc64le", "ppc64le"),
            "x86_64" => ("x86_64", "amd64"),
            other => (other, other),
        };
        if !includes(&self.architectures, rust) && !includes(&self.architectures, go) {
            return Some(format!("it is for the architectures {}", self.architectures));
        }
        if let Some(memory) =
            self.min_memory.filter(|mib| available().is_some_and(|has| has < *mib))
        {
            return Some(format!(
                "it needs {memory} MiB of memory, and there are not so many free"
            ));
        }
        let machine = [
            ("additionalDisks", !self.additional_disks.is_empty()),
            ("primaryDisk", !self.primary_disk.is_null()),
            ("additionalNics", self.additional_nics.is_some_and(|count| count > 0)),
            ("appendKernelArgs", self.append_kernel_args.is_some()),
            ("appendFirstbootKernelArgs", self.append_firstboot_kernel_args.is_some()),
            ("injectContainer", self.inject_container),
            ("numaNodes", self.numa_nodes),
        ];
        let missing = machine.iter().find(|(_, wanted)| *wanted)?.0;
        Some(format!("it needs a virtual machine: {missing}"))
    }
}

/// Most of a test that is searched: bytes.
const MAX: u64 = 1 << 20;

/// Whether a list has a word; one that begins with a `!` has all others.
fn includes(list: &str, word: &str) -> bool {
    let list = list.trim();
    match list.strip_prefix('!') {
        Some(others) => !others.split_whitespace().any(|other| other == word),
        None => list.is_empty() || list.split_whitespace().any(|own| own == word),
    }
}

/// Memory that there is for a machine: MiB.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn inline(text: &str) -> Result<Option<Metadata>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Metadata::inline(file.path())
    }

    #[test]
    fn both_ways_say_the_same() {
        let json = "#!/bin/bash\nset -e\n# kola: { \"architectures\": \"x86_64\", \"tags\": \"a b\", \"description\": \"test\" }\n";
        let yaml = "#!/bin/bash\n## kola:\n##   architectures: x86_64\n##   tags: \"a b\"  # and not c\n##   description: test\nx\n";
        let (json, yaml) = (inline(json).unwrap().unwrap(), inline(yaml).unwrap().unwrap());
        assert_eq!(json, yaml);
        assert_eq!(json.tags(), ["a", "b"]);
        assert_eq!(inline("#!/bin/sh\necho\n").unwrap(), None);
        assert_eq!(inline("# kola: {}\n").unwrap(), None);
        let error = inline("#!/bin/sh\n# kola: { \"tag\": 1 }\n").unwrap_err();
        assert!(
            format!("{error:#}").contains(":2: ") && format!("{error:#}").contains("`tag`"),
            "{error:#}"
        );
    }

    #[test]
    fn what_cannot_be_is_known() {
        let told = |json: &str| serde_json::from_str::<Metadata>(json).unwrap().obstacle();
        assert_eq!(told("{}"), None);
        assert_eq!(told(r#"{"platforms": "qemu"}"#), None);
        assert_eq!(told(r#"{"platforms": "!aws gcp", "architectures": "!s390x ppc64le"}"#), None);
        for (json, part) in [
            (r#"{"platforms": "aws gcp"}"#, "platforms aws gcp"),
            (r#"{"platforms": "!qemu"}"#, "platforms !qemu"),
            (r#"{"architectures": "s390x"}"#, "architectures s390x"),
            (r#"{"additionalDisks": ["5G"]}"#, "additionalDisks"),
            (r#"{"minMemory": 100000000}"#, "memory"),
        ] {
            assert!(told(json).is_some_and(|text| text.contains(part)), "{json}");
        }
    }
}
