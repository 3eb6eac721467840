//! A Kaplan in this process: a platform in a directory of its own behind the PostgreSQL wire.

use kaplan_base::SystemClock;
use kaplan_platform::{Code, Platform, Settings};
use kaplan_server::{Options, Server};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often a directory is tried that is still in use, and how long after each other.
const OPENINGS: usize = 600;
const PAUSE: Duration = Duration::from_millis(50);

pub struct Site {
    pub platform: Platform,
    pub postgres: SocketAddr,
    dir: PathBuf,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

/// Opens a platform; one that is just closed may be held by connections that have yet to see it.
async fn opened(settings: Settings) -> Platform {
    for _ in 0..OPENINGS {
        match Platform::open(settings.clone(), Arc::new(SystemClock)).await {
            Err(e) if e.code == Code::Unavailable => tokio::time::sleep(PAUSE).await,
            other => return other.expect("open"),
        }
    }
    panic!("{} stays in use", settings.data_dir.display());
}

impl Site {
    pub async fn open(dir: &Path) -> Site {
        let settings = Settings {
            data_dir: dir.to_path_buf(),
            archive_interval_ms: 200,
            checkpoint_interval_ms: 1_000,
            ..Settings::default()
        };
        let platform = opened(settings).await;
        let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let options = Options { http: None, postgres: any, ..Options::default() };
        let server = Server::bind(options).await.expect("bind");
        let postgres = server.postgres_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = server.run(platform.clone(), async {
            let _ = stopped.await;
        });
        let served = tokio::spawn(async move { serving.await.expect("serve") });
        Site { platform, postgres, dir: dir.to_path_buf(), stop, served }
    }

    pub async fn close(self) {
        let _ = self.stop.send(());
        let _ = self.served.await;
        self.platform.close().await.expect("close");
    }

    /// Stops as `kaplan start` does on a signal, and opens the directory again.
    pub async fn restart(self) -> Site {
        let dir = self.dir.clone();
        self.close().await;
        Site::open(&dir).await
    }
}
