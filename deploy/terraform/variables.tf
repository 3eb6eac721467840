# Every option. `project_id` and `region` have to be given; the rest has a default that works.

variable "project_id" {
  description = "Id of the Google Cloud project (not its name or number)."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is 6 to 30 lower-case letters, digits and hyphens; `gcloud projects list` shows it in the column PROJECT_ID."
  }
}

variable "region" {
  description = "Region of everything, such as europe-west1. The bucket lies in it too."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is a region such as europe-west1, not a zone (europe-west1-b) and not a multi-region (EU)."
  }
}

variable "name" {
  description = "Prefix of the names of all parts. Two installations in one project need two names."
  type        = string
  default     = "kaplan"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is 3 to 20 lower-case letters, digits and hyphens: ids of service accounts are short."
  }
}

variable "labels" {
  description = "Labels on everything that can carry them, for the bill."
  type        = map(string)
  default     = {}
}

variable "deletion_protection" {
  description = "Refuse to destroy the service, and the bucket while it holds objects."
  type        = bool
  default     = true
}

# --- image ---------------------------------------------------------------------------------------

variable "image" {
  description = "Image that the service is created with. Empty: the first `terraform apply` has Cloud Build make one from this repository. Later images come from the pipeline; changing this changes nothing."
  type        = string
  default     = ""
}

variable "images_kept" {
  description = "Versions of the image that the registry's cleanup keeps, whatever their age."
  type        = number
  default     = 10
}

# --- service -------------------------------------------------------------------------------------

variable "cpu" {
  description = "CPUs of the service."
  type        = string
  default     = "2"

  validation {
    condition     = contains(["1", "2", "4", "6", "8"], var.cpu)
    error_message = "cpu is 1, 2, 4, 6 or 8: Cloud Run sells no other numbers, and CPU that is always on starts at 1."
  }
}

variable "memory" {
  description = "Memory of the service. Views, tables and remembered keys live in it, and so does every file that is written outside the bucket."
  type        = string
  default     = "4Gi"

  validation {
    condition     = can(regex("^[0-9]+(Mi|Gi)$", var.memory))
    error_message = "memory is a number with Mi or Gi, such as 4Gi."
  }
}

variable "concurrency" {
  description = "Requests that the one instance takes at the same time; more wait at the front."
  type        = number
  default     = 250
}

variable "request_timeout_s" {
  description = "Longest request, in seconds. A REFRESH over HTTP waits for the run's end."
  type        = number
  default     = 900
}

variable "log_level" {
  description = "Least severe log lines: error, warn, info, debug, trace, or directives."
  type        = string
  default     = "info"
}

variable "settings" {
  description = "Further settings of `kaplan start` as environment variables, such as { KAPLAN_ARCHIVE_INTERVAL_MS = \"10000\" }."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.settings) : startswith(key, "KAPLAN_")])
    error_message = "settings holds KAPLAN_ variables only; credentials belong into `secrets`."
  }
}

variable "secrets" {
  description = "Environment variables whose values lie in Secret Manager: variable => id of an existing secret. The service's account may read these secrets and no others."
  type        = map(string)
  default     = {}
}

variable "invokers" {
  description = "Who else may call the service, such as [\"user:ann@example.com\", \"group:data@example.com\"]."
  type        = list(string)
  default     = []

  validation {
    condition     = !anytrue([for member in var.invokers : contains(["allUsers", "allAuthenticatedUsers"], member)])
    error_message = "invokers must not open the service to everybody: put a load balancer with its own authentication in front, or name groups."
  }
}

variable "ingress" {
  description = "Where requests may come from: all, internal, or internal-and-cloud-load-balancing."
  type        = string
  default     = "all"

  validation {
    condition     = contains(["all", "internal", "internal-and-cloud-load-balancing"], var.ingress)
    error_message = "ingress is all, internal or internal-and-cloud-load-balancing."
  }
}

variable "rehearsal" {
  description = "A second, empty service on which the pipeline tries every image before it touches the real one. It costs nothing while no release is under way."
  type        = bool
  default     = true
}

variable "read_replicas" {
  description = "Most instances of a read-only service beside the writer, billed by request; 0: none. Needs a Kaplan with `start --read-only`: others refuse to start with that flag."
  type        = number
  default     = 0

  validation {
    condition     = var.read_replicas >= 0 && var.read_replicas <= 100
    error_message = "read_replicas is 0 to 100."
  }
}

# --- batch runs ----------------------------------------------------------------------------------

variable "batch_schedule" {
  description = "When Cloud Scheduler starts a batch run of every Lambda view: five cron fields. Empty: never (views may have schedules of their own)."
  type        = string
  default     = "0 3 * * *"

  validation {
    condition     = var.batch_schedule == "" || length(split(" ", var.batch_schedule)) == 5
    error_message = "batch_schedule has five fields: minute, hour, day of month, month, day of week."
  }
}

variable "time_zone" {
  description = "Time zone of batch_schedule, as in the IANA database."
  type        = string
  default     = "Etc/UTC"
}

variable "batch_target" {
  description = "What the schedule calls: `service` asks the running service for a run, `job` executes the Cloud Run job."
  type        = string
  default     = "service"

  validation {
    condition     = contains(["service", "job"], var.batch_target)
    error_message = "batch_target is service or job."
  }

  validation {
    condition     = var.batch_target != "job" || var.batch_job
    error_message = "batch_target = \"job\" needs batch_job = true."
  }
}

variable "batch_job" {
  description = "A Cloud Run job that computes batch runs with memory of its own. Needs a Kaplan with `batch --data`: others refuse to start with that flag."
  type        = bool
  default     = false
}

variable "batch_job_cpu" {
  description = "CPUs of the batch job."
  type        = string
  default     = "4"
}

variable "batch_job_memory" {
  description = "Memory of the batch job."
  type        = string
  default     = "16Gi"
}

# --- storage -------------------------------------------------------------------------------------

variable "trimmed_days" {
  description = "Days for which segments that the log has trimmed can still be brought back."
  type        = number
  default     = 2
}

variable "noncurrent_days" {
  description = "Days for which other replaced or deleted objects can still be brought back."
  type        = number
  default     = 7
}

# --- continuous deployment -----------------------------------------------------------------------

variable "github_repository" {
  description = "OWNER/NAME of the repository that is built on every push. Empty: no trigger; deploy by hand."
  type        = string
  default     = ""

  validation {
    condition     = var.github_repository == "" || can(regex("^[^/ ]+/[^/ ]+$", var.github_repository))
    error_message = "github_repository is OWNER/NAME, without https:// and without .git."
  }

  validation {
    condition     = var.github_repository == "" || (var.github_app_installation_id > 0 && var.github_token_secret != "")
    error_message = "github_repository needs github_app_installation_id and github_token_secret; the README says where they come from."
  }
}

variable "github_app_installation_id" {
  description = "Number at the end of the address of the Cloud Build app's page among the installed GitHub apps."
  type        = number
  default     = 0
}

variable "github_token_secret" {
  description = "Id of the secret that holds a GitHub token with the scopes repo and read:user."
  type        = string
  default     = ""
}

variable "branch" {
  description = "Branch whose pushes are released."
  type        = string
  default     = "main"
}

# --- network and sources -------------------------------------------------------------------------

variable "network" {
  description = "Existing VPC network for the service's private traffic; with `subnetwork`. Empty: none, or a new one when a source needs it."
  type        = string
  default     = ""

  validation {
    condition     = (var.network == "") == (var.subnetwork == "")
    error_message = "network and subnetwork are given together."
  }
}

variable "subnetwork" {
  description = "Existing subnetwork of `network` in the region, /26 or larger."
  type        = string
  default     = ""
}

variable "managed_kafka" {
  description = "A Managed Service for Apache Kafka cluster with one topic. About 3 vCPU at all times: the most expensive option here."
  type        = bool
  default     = false
}

variable "kafka_topic" {
  description = "Topic of the Kafka cluster."
  type        = string
  default     = "events"
}

variable "cdc_source" {
  description = "A Cloud SQL for PostgreSQL instance with logical decoding, as a source of changes."
  type        = bool
  default     = false
}

variable "cdc_tier" {
  description = "Machine of the Cloud SQL instance."
  type        = string
  default     = "db-custom-1-3840"
}

# --- monitoring ----------------------------------------------------------------------------------

variable "alert_email" {
  description = "Address that alerts are sent to. Empty: they are only shown in the console."
  type        = string
  default     = ""
}

variable "freshness_alert_s" {
  description = "Alert when commits take longer than this to be visible, in seconds (99th percentile)."
  type        = number
  default     = 10
}

variable "error_rate_alert" {
  description = "Alert when more than this share of requests is answered with 5xx."
  type        = number
  default     = 0.01

  validation {
    condition     = var.error_rate_alert > 0 && var.error_rate_alert < 1
    error_message = "error_rate_alert is a share between 0 and 1: 0.01 is one in a hundred."
  }
}

variable "uptime_check" {
  description = "Ask /ready from outside every minute. It counts as requests."
  type        = bool
  default     = true
}
