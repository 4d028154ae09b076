"""What builds and checks the chart, its generated files and the manifests beside it. No part of the product."""
