"""Django's settings, out of the one `Environment`. Production is the default and the strict one."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dj_database_url
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.templatetags.static import static
from django.urls import reverse_lazy

from controlplane.env import Mode, read_environment
from controlplane.logs import logging_settings

#: What was configured; the rest of the code reads it here as `settings.NARROWGATE`.
NARROWGATE = read_environment(os.environ)
_PRODUCTION = NARROWGATE.mode is Mode.PRODUCTION
_TLS = NARROWGATE.public_url.startswith("https://")
_BASE = Path(__file__).resolve().parent.parent

DEBUG = False
SECRET_KEY = NARROWGATE.secret_key
ALLOWED_HOSTS = list(NARROWGATE.allowed_hosts)
ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["controlplane.formats"]
USE_TZ = True

#: The apps whose `api`, `manifest` and `urls` modules are found by their name.
OUR_APPS = ["controlplane.ledger", "accounts", "targets", "policies", "sessions"]
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "csp",
    "django_structlog",
    "django_celery_beat",
    "django_otp",
    "axes",
    "controlplane",
    *OUR_APPS,
]

MIDDLEWARE = [
    "controlplane.origin.origin_middleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.middleware.AuthorityMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # In place of what packages bring along.
        "DIRS": [Path(__file__).parent / "templates_first"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# ---------------------------------------------------------------- database, cache, messages

#: A page or a request that takes longer is a mistake; long work belongs into a task.
_STATEMENT_TIMEOUT_MS = 30_000
_LOCK_TIMEOUT_MS = 10_000
_IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000


def _parse_database(url: str) -> dict[str, Any]:
    parsed: dict[str, Any] = {**dj_database_url.parse(url), "ENGINE": "controlplane.database"}
    parsed["OPTIONS"] = {**parsed.get("OPTIONS", {}), "application_name": "narrowgate", "connect_timeout": 5}
    return parsed


_database = _parse_database(NARROWGATE.database_url)
_options: dict[str, Any] = _database["OPTIONS"]
_options["options"] = (
    f"-c statement_timeout={_STATEMENT_TIMEOUT_MS} -c lock_timeout={_LOCK_TIMEOUT_MS}"
    f" -c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_TIMEOUT_MS}"
)
if NARROWGATE.mode is not Mode.TEST:  # a pool outlives the test that opened it
    _options["pool"] = {"min_size": 1, "max_size": NARROWGATE.database_pool_size, "timeout": 10}
    # A restart of the database leaves dead connections in the pool: each would fail one request, or a worker's sign-on.
    _database["CONN_HEALTH_CHECKS"] = True
DATABASES = {"default": _database}
#: As whom `manage.py migrate` works (`controlplane.database.roles`); a migration may take long, but not wait for long.
OWNER_DATABASE = _parse_database(NARROWGATE.database_owner_url) if NARROWGATE.database_owner_url else None
if OWNER_DATABASE is not None:
    OWNER_DATABASE["OPTIONS"]["options"] = f"-c lock_timeout={_LOCK_TIMEOUT_MS}"

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": NARROWGATE.redis_url,
        "KEY_PREFIX": "narrowgate",
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # The layer waits 5 s for a message at a time; a socket that gives up by then would end every quiet link.
            "hosts": [{"address": NARROWGATE.redis_url, "socket_timeout": 30}],
            "prefix": "narrowgate",
            "expiry": 30,
            "capacity": 1_000,
        },
    },
}

CELERY_BROKER_URL = NARROWGATE.redis_url
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": "narrowgate:celery:"}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "accounts-forget-old-tokens": {"task": "accounts.tasks.forget_old_tokens", "schedule": timedelta(hours=1)},
    "accounts-forget-old-sign-ins": {"task": "accounts.tasks.forget_old_sign_ins", "schedule": timedelta(hours=1)},
    "accounts-forget-used-assertions": {
        "task": "accounts.tasks.forget_used_assertions",
        "schedule": timedelta(minutes=10),
    },
    # Links expire what is held by themselves, and changes of people and policies are heard: these are the nets below.
    "policies-settle-due-approvals": {
        "task": "policies.approvals.tasks.settle_due_approvals",
        "schedule": timedelta(seconds=10),
    },
    "policies-review-open-approvals": {
        "task": "policies.approvals.tasks.review_open_approvals",
        "schedule": timedelta(minutes=1),
    },
    "policies-deliver-due": {"task": "policies.notifying.tasks.deliver_due", "schedule": timedelta(seconds=10)},
    "policies-forget-link-codes": {
        "task": "policies.notifying.tasks.forget_link_codes",
        "schedule": timedelta(hours=1),
    },
    "sessions-settle-unfinished": {"task": "sessions.tasks.settle_unfinished", "schedule": timedelta(minutes=1)},
    "sessions-run-forgotten": {"task": "sessions.replay_tasks.run_forgotten", "schedule": timedelta(minutes=1)},
    "sessions-forget-refusals": {"task": "sessions.tasks.forget_refusals", "schedule": timedelta(hours=1)},
}
DJANGO_CELERY_BEAT_TZ_AWARE = True

# ---------------------------------------------------------------- e-mail

#: An alert that can't be sent in this time is retried by its task.
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = NARROWGATE.email_from
_smtp = urlsplit(NARROWGATE.smtp_url)
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if NARROWGATE.smtp_url else 'dummy'}.EmailBackend"
EMAIL_USE_SSL = _smtp.scheme == "smtps"
EMAIL_HOST = _smtp.hostname or ""
EMAIL_PORT = _smtp.port or (465 if EMAIL_USE_SSL else 25)
EMAIL_HOST_USER = unquote(_smtp.username or "")
EMAIL_HOST_PASSWORD = unquote(_smtp.password or "")

# ---------------------------------------------------------------- people and the browser

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "accounts.federation.oidc.OidcBackend",
]
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Wrong passwords lock one address out of one account, and nobody else: a lock must not keep break-glass from its owner.
AXES_HANDLER = "axes.handlers.cache.AxesCacheHandler"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_USERNAME_FORM_FIELD = "username"
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
#: `controlplane.origin` has put the client's address there, and knows which proxies to believe.
AXES_IPWARE_META_PRECEDENCE_ORDER = ("REMOTE_ADDR",)
IPWARE_META_PRECEDENCE_ORDER = ("REMOTE_ADDR",)

#: mozilla-django-oidc's own; what differs by provider is in accounts.federation.oidc.
OIDC_MAX_STATES = 10

SESSION_COOKIE_NAME = "narrowgate_session"
#: `accounts.signin` ends a session after an hour without a request, too.
SESSION_COOKIE_AGE = 8 * 3600
SESSION_COOKIE_SECURE = _TLS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_NAME = "narrowgate_csrf"
CSRF_COOKIE_SECURE = _TLS
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = [NARROWGATE.public_url]
SECURE_SSL_REDIRECT = _PRODUCTION
#: Probes come from inside, without TLS.
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _PRODUCTION else None
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _PRODUCTION
SECURE_HSTS_PRELOAD = _PRODUCTION
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        # The admin's Alpine.js evaluates expressions out of attributes; no inline script runs.
        "script-src": [SELF, UNSAFE_EVAL],
        # The admin's theme is an inline style sheet and style attributes.
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "worker-src": [SELF, "blob:"],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "object-src": [NONE],
    },
}

STATIC_URL = "static/"
#: `manage.py collectstatic` fills it for production; demo and tests serve the files where the packages keep them.
STATIC_ROOT = _BASE / "staticfiles" if _PRODUCTION else None
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "segments": {
        "BACKEND": "sessions.storage.DurableFileSystemStorage",
        "OPTIONS": {"location": NARROWGATE.storage_dir, "file_permissions_mode": 0o600},
    },
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if _PRODUCTION
        else "django.contrib.staticfiles.storage.StaticFilesStorage",
    },
}
WHITENOISE_USE_FINDERS = not _PRODUCTION
#: A form of the admin or of REST; content segments are streamed and have their own bound.
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2_000
FILE_UPLOAD_PERMISSIONS = 0o600

# ---------------------------------------------------------------- REST

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.ApiTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "controlplane.pagination.BoundedPagination",
    "DEFAULT_FILTER_BACKENDS": [
        "controlplane.filtering.KnownParameters",
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.SearchFilter",
        "rest_framework.filters.OrderingFilter",
    ],
    "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.NamespaceVersioning",
    "DEFAULT_VERSION": "v1",
    "ALLOWED_VERSIONS": ["v1"],
    "DEFAULT_SCHEMA_CLASS": "controlplane.schema.ProblemAutoSchema",
    "DEFAULT_THROTTLE_CLASSES": [
        "rest_framework.throttling.UserRateThrottle",
        "rest_framework.throttling.AnonRateThrottle",
    ],
    "NUM_PROXIES": 0,  # as above: REMOTE_ADDR is the client
    "DEFAULT_THROTTLE_RATES": {"user": "3000/min", "anon": "120/min"},
    "EXCEPTION_HANDLER": "controlplane.problems.problem_response",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Narrowgate",
    "DESCRIPTION": "Agents, targets, policies, and the record of what was done.",
    "VERSION": "1",
    "DEFAULT_GENERATOR_CLASS": "controlplane.schema.UnscopedSchemaGenerator",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    # Fields of one name with different choices.
    "ENUM_NAME_OVERRIDES": {
        "ApprovalStateEnum": "policies.approvals.models.ApprovalState",
        "DraftStateEnum": "policies.models.DraftState",
        "SimulationStateEnum": "policies.simulation.models.RunState",
        "NotificationStateEnum": "policies.notifying.models.NotificationState",
        "NotificationEventEnum": "policies.notifying.models.Event",
        "SessionStateEnum": "sessions.models.SessionState",
        "GrantScopeEnum": "policies.approvals.models.Scope",
        "KillStateEnum": "sessions.killing.models.KillState",
        "KillScopeEnum": "sessions.killing.models.KillScope",
    },
}

#: Shade → colour: the teal of Tailwind's palette.
_TEAL = {
    "50": "oklch(98.4% .014 180.72)",
    "100": "oklch(95.3% .051 180.801)",
    "200": "oklch(91% .096 180.426)",
    "300": "oklch(85.5% .138 181.071)",
    "400": "oklch(77.7% .152 181.912)",
    "500": "oklch(70.4% .14 182.503)",
    "600": "oklch(60% .118 184.704)",
    "700": "oklch(51.1% .096 186.391)",
    "800": "oklch(43.7% .078 188.216)",
    "900": "oklch(38.6% .063 188.416)",
    "950": "oklch(27.7% .046 192.524)",
}
UNFOLD = {
    "SITE_TITLE": "Narrowgate",
    "SITE_HEADER": "Narrowgate",
    "SITE_SYMBOL": "shield_lock",
    "SITE_URL": None,
    "COLORS": {"primary": _TEAL},
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "ENVIRONMENT": "controlplane.navigation.environment_badge",
    "DASHBOARD_CALLBACK": "sessions.home.overview",
    "STYLES": [lambda _request: static("controlplane/admin.css")],
    "ACCOUNT": {"navigation": [{"title": "Your account", "link": reverse_lazy("my-account")}]},
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": "controlplane.navigation.sidebar",
    },
}

# ---------------------------------------------------------------- logs

DJANGO_STRUCTLOG_CELERY_ENABLED = True
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
LOGGING = logging_settings(level=NARROWGATE.log_level, as_json=_PRODUCTION)
