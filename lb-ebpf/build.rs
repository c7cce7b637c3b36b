//! Link options that `aya-build` does not set.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // Headers are byte arrays, since they lie at any address. Without this, LLVM reads them byte by byte; the
        // kernel allows wider reads of packets wherever the processor does.
        println!("cargo:rustc-link-arg=--cpu-features=+allows-misaligned-mem-access");
        // Otherwise every memset becomes a call of a loop over bytes.
        println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
    }
}
