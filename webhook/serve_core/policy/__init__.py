"""Policies: which models may be served. Their resources, their rules, and the one evaluator.

:func:`serve_core.policy.evaluate.judge_policies` compares :mod:`policies <serve_core.policy.v1alpha1>` with a
:mod:`subject <serve_core.policy.subject>`. What cannot be compared is refused: no object passes because something was
unreadable.
"""
