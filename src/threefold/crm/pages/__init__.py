"""The CRM's pages: server-rendered, brought to life by htmx and a few small scripts of ours.

Each file here is one person's pages: a route, the context it makes, the template that shows it. A page and its parts
are the same route and the same context; htmx asks for a part by the name of its block (rendering.py). What a page
changes goes through `Desk.write`, as everything does.
"""

from threefold.crm.pages.assembly import problem_page, router, shell_page
from threefold.crm.pages.rendering import STATIC

__all__ = ["STATIC", "problem_page", "router", "shell_page"]
