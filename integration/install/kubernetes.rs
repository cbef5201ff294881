//! The manifests for Kubernetes: their containers are run as a kubelet runs them, with
//! the directories and capabilities that they name, and no others.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{BEFORE, CONFLIST, INSTALLED, Machine, after, call, machine, machine::binaries};
use crate::{
    namespace::write_program,
    tool::{self, Ran},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The pods of a manifest.
fn pod(name: &str) -> Value {
    let file = Path::new(ROOT).join("scripts/node").join(name);
    let manifest: Value = serde_yaml_ng::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(manifest["kind"], "DaemonSet");
    manifest["spec"]["template"]["spec"].clone()
}

/// The directory of the node behind a volume.
fn host_path(pod: &Value, volume: &Value) -> String {
    let volumes = pod["volumes"].as_array().unwrap();
    let found = volumes.iter().find(|one| one["name"] == volume["name"]).unwrap();
    found["hostPath"]["path"].as_str().unwrap().to_owned()
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// What the image holds, as the Containerfile makes it.
fn image(machine: &Machine) -> PathBuf {
    let image = machine.node.folder("image");
    if !image.exists() {
        fs::create_dir(&image).unwrap();
        symlink(Path::new(ROOT).join("scripts"), image.join("scripts")).unwrap();
        symlink(Path::new(ROOT).join("conflist"), image.join("conflist")).unwrap();
        // A folder, for links would lead out of what the container sees.
        fs::create_dir(image.join("dist")).unwrap();
        for binary in ["portclaim", "portclaimctl"] {
            let content = fs::read(binaries().join(binary)).unwrap();
            write_program(&image.join("dist").join(binary), &content);
        }
    }
    image
}

/// Mounts what comes as pairs, makes everything else read-only, gives up all
/// capabilities but those named, and becomes the rest of the words.
const CONTAINER: &str = "set -e
mount --bind \"$1\" /srv
mount -t tmpfs tmpfs /mnt
capabilities=$2
shift 2
while [ \"$1\" != -- ]; do
    # The suite has these for itself; nothing is made in other folders of the machine.
    case $2 in /mnt/* | /run/* | /var/lib/*) ;; *) mount -t tmpfs tmpfs \"${2%/*}\" ;; esac
    mkdir -p \"$2\"
    mount --bind \"$1\" \"$2\"
    [ \"$3\" = rw ] || mount -o \"remount,bind,$3\" \"$2\"
    shift 3
done
shift
mount -o remount,bind,ro /
cd /srv
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=\"$capabilities\" \"$@\"";

/// Runs a command in a container of the pod.
fn run(machine: &Machine, pod: &Value, container: &Value, words: &[&str]) -> Ran {
    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    for (key, value) in [
        ("allowPrivilegeEscalation", false.into()),
        ("readOnlyRootFilesystem", true.into()),
        ("runAsUser", Value::from(0)),
        ("privileged", Value::Null),
    ] {
        assert_eq!(security[key], value, "{key}");
    }
    let added = security["capabilities"]["add"].as_array().into_iter().flatten();
    let added = added.map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase()));
    let capabilities = format!("-all{}", added.collect::<String>());
    let mut command = std::process::Command::new("unshare");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["--mount", "bash", "-c", CONTAINER, "bash"]).arg(image(machine));
    command.arg(capabilities);
    for mount in container["volumeMounts"].as_array().unwrap() {
        let directory = machine.at(&host_path(pod, mount));
        fs::create_dir_all(&directory).unwrap();
        let target = mount["mountPath"].as_str().unwrap();
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        command.arg(directory).args([target, mode]);
    }
    command.arg("--").args(words);
    tool::run(&machine.node, &mut command)
}

fn pods_install_and_uninstall() {
    let machine = machine();
    let install = pod("kubernetes.yaml");
    let first = &install["initContainers"][0];
    run(&machine, &install, first, &words(&first["command"])).succeeded();
    assert_eq!(machine.read(CONFLIST), after());
    assert_eq!(machine.files(), INSTALLED);
    let doctor = &install["containers"][0];
    let probe = words(&doctor["readinessProbe"]["exec"]["command"]);
    for held in [0, 1] {
        let found = run(&machine, &install, doctor, &probe);
        let text = found.succeeded();
        assert!(!text.contains("skip") && text.contains("nf_tables: the kernel would"), "{text}");
        assert_eq!(text.contains("1 ports"), held == 1, "{text}");
        if held == 0 {
            call(&machine, "ADD", "web");
        }
    }
    let before = machine.files();
    // Another image.
    run(&machine, &install, first, &words(&first["command"])).succeeded();
    assert_eq!(machine.files(), before);

    let uninstall = pod("kubernetes-uninstall.yaml");
    let first = &uninstall["initContainers"][0];
    run(&machine, &uninstall, first, &words(&first["command"])).succeeded();
    assert_eq!(machine.read(CONFLIST), BEFORE);
    let reset = &uninstall["containers"][0];
    let [shell, flag, script] = words(&reset["command"])[..] else { panic!("it is a script") };
    let once = script.strip_suffix(" && exec sleep infinity").unwrap();
    run(&machine, &uninstall, reset, &[shell, flag, once]).succeeded();
    assert_eq!(machine.files(), [""; 0]);
    assert_eq!(machine.node.host.nft("list ruleset"), "");
}

pub const TESTS: [super::unit::Test; 1] = [("kubernetes", pods_install_and_uninstall)];
