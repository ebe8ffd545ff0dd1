"""The model loader: the init container that puts a complete, verified model onto the pod's volume, or reports why not.

It uses the standard library only and imports only what a download needs: the image is small and starts fast.
"""
