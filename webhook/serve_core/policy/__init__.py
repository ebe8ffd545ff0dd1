"""Policies: what may be served, from where, how big and how guarded. One evaluator for admission, audit and the desk.

A :mod:`subject <serve_core.policy.subjects>` is made of any object that serves a model; the
:mod:`documents <serve_core.api.policies>` are judged on it by :func:`serve_core.policy.evaluate.judge_policies`.
What cannot be compared is refused: no rule is passed because something was unreadable.
"""
