"""The model loader: the init container that brings a model onto the pod's volume, whole and verified, or says why not.

Standard library only: the image is small, nothing is imported that a download does not need, and it starts in a blink.
"""
