//! The package for distributions with RPM, built by the crate `rpm`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileMode, FileOptions, PackageBuilder};

use crate::{
    DESCRIPTION, SUMMARY, Source, VERSION,
    contents::{self, CONFIGURATION_DIRECTORY, Kind},
    libraries,
};

const RELEASE: &str = "1";

/// Writes `xvip-VERSION-RELEASE.ARCH.rpm` into a directory.
///
/// # Errors
/// Something cannot be read or written.
pub fn write(source: &Source, directory: &Path) -> anyhow::Result<PathBuf> {
    let architecture = std::env::consts::ARCH;
    let time = u32::try_from(source.epoch).context("the time of the package is too late for RPM")?;
    let level = if source.fast { 1 } else { 9 };
    let config = BuildConfig::v4().compression(CompressionWithLevel::Gzip(level)).source_date(time);
    let mut builder = PackageBuilder::new("xvip", VERSION, "Apache-2.0", architecture, SUMMARY);
    builder
        .using_config(config)
        .release(RELEASE)
        .description(DESCRIPTION)
        .vendor(crate::maintainer())
        .build_host("localhost");
    let files = contents::files(source, Kind::Rpm)?;
    // What nobody owns stays when the package goes.
    for directory in contents::own_directories(&files) {
        builder.with_dir_entry(FileOptions::dir(directory).mode(FileMode::dir(0o755)))?;
    }
    for file in files {
        if file.path == "/usr/bin/xvip" {
            for (library, versions) in libraries::needed(&file.content)? {
                for version in versions {
                    builder.requires(Dependency::any(format!("{library}({version})(64bit)")));
                }
            }
        }
        let mut options = FileOptions::new(&file.path).permissions(u16::try_from(file.mode)?);
        if file.documentation {
            options = options.doc();
        }
        builder.with_file_contents(file.content, options)?;
    }
    builder.with_dir_entry(FileOptions::dir(CONFIGURATION_DIRECTORY).mode(FileMode::dir(0o755)))?;
    let script = |name: &str| {
        let path = source.root.join("packaging/rpm").join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    builder
        .post_install_script(script("post")?)
        .pre_uninstall_script(script("preun")?)
        .post_uninstall_script(script("postun")?)
        .requires(Dependency::any("systemd"))
        .requires(Dependency::any("dbus"));
    let package = builder.build()?;
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("xvip-{VERSION}-{RELEASE}.{architecture}.rpm"));
    let mut file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    package.write(&mut file)?;
    Ok(path)
}
