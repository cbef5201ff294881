//! What the documentation says is tried: every command of the README is run,
//! every configuration in it and in `conflist/` is given to the plugin.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use libtest_mimic::Trial;
use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub fn trials() -> Vec<Trial> {
    crate::trials(
        "readme",
        [
            ("commands_run", commands_run as fn()),
            ("configurations_are_accepted", configurations_are_accepted),
            ("links_lead_somewhere", links_lead_somewhere),
        ],
    )
}

/// The text of the fenced blocks of this language.
pub fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(str::to_owned).collect()
}

/// A node as the README's reader has it: portclaim built in `dist`, one container
/// on the network `mynet`, whose chain has `portmap` in it. All of it in namespaces of
/// its own.
const NODE: &str = r#"
set -euo pipefail
for directory in /opt /etc/cni /etc/systemd/system /usr/local/bin /run /var/lib; do
    mkdir -p "$directory"
    mount -t tmpfs tmpfs "$directory"
done
mkdir -p /run/work/dist
cd /run/work
ln -s "$PLUGIN" dist/portclaim
ln -s "$CTL" dist/portclaimctl
echo "$TEMPLATE" >service.yaml
echo "$CLAIMS" >ports.json
ln -s "$ROOT/conflist" "$ROOT/scripts" .
mkdir /etc/cni/net.d
cat >/etc/cni/net.d/10-mynet.conflist <<'END'
{
  "cniVersion": "1.0.0",
  "name": "mynet",
  "plugins": [
    { "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.88.0.0/16" } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
END
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
export CNI_CONTAINERID=abc CNI_NETNS=/run/netns/abc CNI_IFNAME=eth0
CNI_COMMAND=ADD dist/portclaim >/dev/null <<< '{
    "cniVersion": "1.0.0", "name": "mynet", "type": "portclaim",
    "runtimeConfig": {"portMappings": [{"containerPort": 80}]},
    "prevResult": {"ips": [{"address": "10.88.0.2/16"}]}
}'
"#;

/// Scripts but for the installation are run by `scripts/test` itself; everything else
/// is run here, in the order in which it stands.
fn commands_run() {
    let commands: Vec<String> =
        blocks("sh").iter().flat_map(|b| b.lines()).map(str::to_owned).collect();
    let (scripts, commands): (Vec<_>, Vec<_>) = commands
        .into_iter()
        .partition(|line| line.starts_with("scripts/") && !line.starts_with("scripts/install"));
    assert!(scripts.len() >= 3 && commands.len() >= 8, "{scripts:?} {commands:?}");
    for script in scripts {
        let path = Path::new(ROOT).join(&script);
        assert!(path.is_file(), "{script} is not there");
    }
    let lines = commands.iter().map(|line| format!("echo 'README: '{line:?} >&2\n{line}\n"));
    let script = format!("{NODE}\n{}", lines.collect::<String>());
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-c", &script])
        .env("PLUGIN", env!("CARGO_BIN_EXE_portclaim"))
        .env("CTL", env!("CARGO_BIN_EXE_portclaimctl"))
        .env("ROOT", ROOT)
        .env("TEMPLATE", &blocks("blade")[0])
        .env("CLAIMS", &blocks("jsonc")[0])
        // Where the suite has it, is no folder of this node.
        .env_remove("TMPDIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("10.88.0.2:80"), "{text}");
    assert!(text.contains("port: 10080"), "{text}");
}

/// The entries of type portclaim in a conflist, or the value itself.
fn entries(value: &Value) -> Vec<Value> {
    let plugins = value["plugins"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    plugins.into_iter().filter(|plugin| plugin["type"] == "portclaim").collect()
}

fn configurations_are_accepted() {
    let conflists = fs::read_dir(Path::new(ROOT).join("conflist")).unwrap();
    let files = conflists.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let texts: Vec<_> = files.chain(blocks("json")).collect();
    assert!(texts.len() >= 3);
    for text in texts {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let entries = entries(&value);
        assert_eq!(entries.len(), 1, "{text}");
        for mut entry in entries {
            let dir = tempfile::tempdir().unwrap();
            let keys = json!({
                "cniVersion": "1.1.0",
                "name": "mynet",
                "dataDir": dir.path().join("data"),
            });
            entry.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            // STATUS reads every key, and asks nft whether it takes the rules.
            let mut plugin = Command::new(env!("CARGO_BIN_EXE_portclaim"))
                .env("CNI_COMMAND", "STATUS")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            serde_json::to_writer(plugin.stdin.take().unwrap(), &entry).unwrap();
            let output = plugin.wait_with_output().unwrap();
            let reply = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && reply.is_empty(), "{reply} for {text}");
        }
    }
}

/// Links to headings and to files of the repository; others are nobody's here.
fn links_lead_somewhere() {
    const PICTURE_LIMIT: u64 = 100_000;
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    // Every other part is a block of code.
    let prose: String = readme.split("```").step_by(2).collect();
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchors: Vec<_> =
        headings.map(|line| anchor(line.trim_start_matches(['#', ' ']))).collect();
    let targets = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let (mut own, mut pictures) = (0, 0);
    for target in targets.filter(|target| !target.contains("://")) {
        own += 1;
        if let Some(wanted) = target.strip_prefix('#') {
            assert!(anchors.iter().any(|anchor| anchor == wanted), "no heading: {target}");
            continue;
        }
        let file = fs::metadata(Path::new(ROOT).join(target));
        let file = file.unwrap_or_else(|error| panic!("{target}: {error}"));
        if Path::new(target).extension().is_some_and(|it| it == "png") {
            pictures += 1;
            assert!(file.len() < PICTURE_LIMIT, "{target} has {} bytes", file.len());
        }
    }
    assert!(own > 20 && pictures == 2, "{own} links, {pictures} pictures");
}
