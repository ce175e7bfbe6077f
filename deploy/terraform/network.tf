locals {
  egress_cidr_blocks = var.egress_cidr_blocks != null ? var.egress_cidr_blocks : var.create_vpc_endpoints ? [] : ["0.0.0.0/0"]

  # Services that the daemon, its boot script and Session Manager call. KMS is called by SQS and S3, not by instances.
  interface_services = !var.create_vpc_endpoints ? toset([]) : toset(concat(
    ["autoscaling", "sqs", "ssm", "ssmmessages"],
    length(var.secrets) > 0 ? ["secretsmanager"] : [],
    # Of this region; the endpoint of another one must be reachable through egress_cidr_blocks.
    try(split(":", var.event_bus_arn)[3] == local.region, false) ? ["events"] : [],
  ))
}

# --- Instances --------------------------------------------------------------------------------------------------------

resource "aws_security_group" "instance" {
  name_prefix = "${var.name}-instance-"
  description = "transcriptd instances: metrics in, HTTPS out"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-instance" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  count = length(var.metrics_source_security_group_ids)

  security_group_id            = aws_security_group.instance.id
  description                  = "Prometheus scrapes"
  referenced_security_group_id = var.metrics_source_security_group_ids[count.index]
  ip_protocol                  = "tcp"
  from_port                    = local.http_port
  to_port                      = local.http_port
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = toset(local.egress_cidr_blocks)

  security_group_id = aws_security_group.instance.id
  description       = "AWS, webhook receivers, model hubs"
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "prefix_list" {
  count = length(var.egress_prefix_list_ids)

  security_group_id = aws_security_group.instance.id
  description       = "Given prefix lists"
  prefix_list_id    = var.egress_prefix_list_ids[count.index]
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = local.tags
}

# --- VPC endpoints ----------------------------------------------------------------------------------------------------

data "aws_vpc_endpoint_service" "interface" {
  for_each = local.interface_services

  service      = each.value # the full name differs between partitions
  service_type = "Interface"
}

data "aws_vpc_endpoint_service" "s3" {
  count = var.create_vpc_endpoints ? 1 : 0

  service      = "s3"
  service_type = "Gateway"
}

resource "aws_security_group" "endpoint" {
  count = var.create_vpc_endpoints ? 1 : 0

  name_prefix = "${var.name}-endpoint-"
  description = "VPC endpoints: HTTPS from transcriptd instances"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-endpoint" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "endpoint" {
  count = var.create_vpc_endpoints ? 1 : 0

  security_group_id            = aws_security_group.endpoint[0].id
  description                  = "HTTPS from transcriptd instances"
  referenced_security_group_id = aws_security_group.instance.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "endpoint" {
  count = var.create_vpc_endpoints ? 1 : 0

  security_group_id            = aws_security_group.instance.id
  description                  = "VPC endpoints"
  referenced_security_group_id = aws_security_group.endpoint[0].id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  count = var.create_vpc_endpoints ? 1 : 0

  security_group_id = aws_security_group.instance.id
  description       = "S3 gateway endpoint"
  prefix_list_id    = aws_vpc_endpoint.s3[0].prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = local.tags
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_services

  vpc_id              = var.vpc_id
  service_name        = data.aws_vpc_endpoint_service.interface[each.value].service_name
  vpc_endpoint_type   = "Interface"
  subnet_ids          = var.subnet_ids
  security_group_ids  = [aws_security_group.endpoint[0].id]
  private_dns_enabled = true
  tags                = merge(local.tags, { Name = "${var.name}-${each.value}" })
}

resource "aws_vpc_endpoint" "s3" {
  count = var.create_vpc_endpoints ? 1 : 0

  vpc_id            = var.vpc_id
  service_name      = data.aws_vpc_endpoint_service.s3[0].service_name
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.route_table_ids
  tags              = merge(local.tags, { Name = "${var.name}-s3" })
}
