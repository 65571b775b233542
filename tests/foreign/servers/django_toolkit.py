"""A foreign identity server for the tests: Django OAuth Toolkit in one file.

It issues refresh tokens without ``offline_access``, rotates them with a grace period, demands PKCE,
and has no tenants. It listens on a free port, prints its URL, and serves until its process is
ended. Its user is "ada" with the password "lovelace"; the command line gives its client.
"""

from __future__ import annotations

import sys
import tempfile
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings

client_id, client_secret, redirect_uri = sys.argv[1:4]

LOGIN_FORM = "<form method='post'>{% csrf_token %}{{ form }}</form>"

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{tempfile.mkdtemp()}/db.sqlite3",
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    LOGIN_URL="/login/",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": 1800,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 1800,
        "ROTATE_REFRESH_TOKEN": True,
        "PKCE_REQUIRED": True,
        "SCOPES": {"books": "read the books"},
    },
    ROOT_URLCONF="other_urls",
    SECRET_KEY="of a test",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"registration/login.html": LOGIN_FORM},
                    ),
                    "django.template.loaders.app_directories.Loader",
                ]
            },
        }
    ],
    USE_TZ=True,
)
settings.TEMPLATES[0]["APP_DIRS"] = False
django.setup()

import types

from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import include, path
from oauth2_provider.models import Application

urls = types.ModuleType("other_urls")
urls.urlpatterns = [  # type: ignore[attr-defined]
    path("login/", LoginView.as_view()),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]
sys.modules["other_urls"] = urls


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


call_command("migrate", verbosity=0)
User.objects.create_user("ada", password="lovelace")
Application.objects.create(
    client_id=client_id,
    client_secret=client_secret,
    client_type=Application.CLIENT_CONFIDENTIAL,
    authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
    redirect_uris=redirect_uri,
    user=None,
)
with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet) as server:
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
