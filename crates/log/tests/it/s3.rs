//! A real S3 server for the tests, started by `scripts/s3.sh` and stopped at the end. Where it cannot be
//! had, a test says so in one line, and fails when `CI` is set.

use kaplan_store::{Place, Retry, Settled};
use object_store::aws::AmazonS3Builder;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use url::Url;

/// The exit code of the script when the server cannot be had.
const UNAVAILABLE: i32 = 77;

/// A running server with an empty bucket.
pub struct S3 {
    dir: TempDir,
    endpoint: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3.sh")
}

impl S3 {
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let started = Command::new(script()).arg("start").arg(dir.path()).output().unwrap();
        if started.status.code() == Some(UNAVAILABLE) {
            assert!(std::env::var_os("CI").is_none(), "CI must have an S3 server");
            eprintln!("SKIPPED an S3 server: {}", String::from_utf8_lossy(&started.stderr));
            return None;
        }
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let endpoint = env.split("AWS_ENDPOINT_URL=").nth(1).unwrap();
        let endpoint = endpoint.split_whitespace().next().unwrap().to_owned();
        Some(Self { dir, endpoint })
    }

    /// A place in the bucket that nothing else uses.
    pub fn place(&self, prefix: &str) -> Place {
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id("testkey")
            .with_secret_access_key("testsecret")
            .with_bucket_name("lake")
            .build()
            .unwrap();
        let store = Arc::new(Settled::new(Arc::new(store), Retry::default()));
        Place::over(Url::parse(&format!("s3://lake/{prefix}")).unwrap(), store).unwrap()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("stop").arg(self.dir.path()).status();
    }
}
