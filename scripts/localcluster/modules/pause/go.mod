module kubectl-serve.dev/localcluster/pause

go 1.25.0
